"""The questions to an agent about what the attempts of a run have saved, see `agent_client`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.agent.shard_ranges import parse_name
from orchestrator.core.codec import to_json
from orchestrator.core.host_answers import ShardCheck, ShardRow
from orchestrator.core.iteration_answers import IterationList
from orchestrator.core.records import Attempt, Load
from orchestrator.hosts.agent_questions import AgentQuestions
from orchestrator.hosts.conversation import Limits

__all__ = ["ShardQuestions"]

_MANY_ROWS = Limits(1 << 26, items=1 << 21)


class ShardQuestions(AgentQuestions):
    """Which shards there are, whether they are whole, and their way to the next attempt."""

    def shards(
        self, run_id: str, *, steps: bool = False, timeout: float | None = None
    ) -> tuple[ShardRow, ...]:
        """The files of the attempt in force, or of the one that is addressed.

        With the copies that it keeps of other hosts' files, which have an `owner`. Nobody looks into them,
        but for their `steps`: where names count those of an epoch, each has its `global_step`.
        """
        return self._rows("shards", run_id, timeout, copies=True, steps=steps)

    def saved(
        self,
        run_id: str,
        tokens: Mapping[int, str],
        *,
        steps: bool = False,
        timeout: float | None = None,
    ) -> tuple[ShardRow, ...]:
        """The same of all attempts, but for those of other tokens than these."""
        named = {str(number): token for number, token in tokens.items()}
        rows = self._rows("saved", run_id, timeout, tokens=named, copies=True, steps=steps)
        self._expect(all(row.attempt for row in rows), "the number of an attempt")
        return rows

    def iterations(self, run_id: str, attempt: Attempt, *, timeout: float | None = None) -> IterationList:
        """What an attempt has saved in the form of MindFormers' checkpoint 2.0."""
        args = {"run_id": run_id, "meant": to_json(attempt)}
        return self._ask(IterationList, "iterations", limits=_MANY_ROWS, timeout=timeout, **args)

    def _rows(self, verb: str, run_id: str, timeout: float | None, **args: Any) -> tuple[ShardRow, ...]:
        args["run_id"] = run_id
        rows = self._ask(tuple[ShardRow, ...], verb, limits=_MANY_ROWS, timeout=timeout, **args)
        for row in rows:
            said = {name: getattr(row, name) for name in ("rank", "rerun", "epoch", "step", "path")}
            self._expect(parse_name(row.path) == said, "numbers as in a shard's name")
        return rows

    def check_shard(
        self, path: str, identity: Sequence[int], *, hashed: bool = False, timeout: float | None = None
    ) -> ShardCheck:
        """Whether a file is whole; AgentError where it is not. `hashed`: the SHA-256 of its bytes, too."""
        found = self._ask(
            ShardCheck, "check_shard", timeout=timeout, path=path, identity=list(identity), hashed=hashed
        )
        self._expect(hashed == (found.sha256 is not None), "a hash where it was asked for")
        return found

    def check_shards(
        self, files: Sequence[tuple[str, Sequence[int], bool]], *, timeout: float | None = None
    ) -> tuple[ShardCheck, ...]:
        """The same of several files, each (path, identity, hashed): what is wrong with one is its `damage`.

        `timeout` is for each of them.
        """
        found = self._ask(
            tuple[ShardCheck, ...],
            "check_shards",
            limits=_MANY_ROWS,
            timeout=None if timeout is None else timeout * max(1, len(files)),
            files=[[path, list(identity), hashed] for path, identity, hashed in files],
        )
        self._expect(len(found) == len(files), "a word on each file that was asked about")
        for (_, _, hashed), check in zip(files, found, strict=True):
            fits = hashed == (check.sha256 is not None) or bool(check.damage)
            self._expect(fits, "a hash where it was asked for")
        return found

    def place_shards(
        self,
        run_id: str,
        number: int,
        loads: Sequence[Load],
        origin: tuple[int, int],
        *,
        timeout: float | None = None,
    ) -> None:
        """Put shards of earlier attempts where attempt `number` loads them; `origin` is (attempt, step)."""
        placed = to_json(tuple(loads))
        self._do(
            "place_shards", timeout=timeout, run_id=run_id, number=number, loads=placed, origin=list(origin)
        )

    def tell_step(self, run_id: str, number: int, step: int) -> None:
        """Tell the host the newest step, of attempt `number`, that is complete over all hosts."""
        self._do("tell_step", run_id=run_id, number=number, step=step)
