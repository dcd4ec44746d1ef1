"""The questions to the agent of a host that stands ready for a run, see `agent_client`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.core.spare_records import SpareAnswer
from orchestrator.hosts.agent_questions import AgentQuestions

__all__ = ["SpareQuestions"]

_LONGEST_TROUBLE = 500
_LONGEST_IMPORT = 1e9


class SpareQuestions(AgentQuestions):
    """A host is held ready, kept so, looked at, and let go of."""

    def spare_hold(
        self,
        run_id: str,
        devices: Sequence[int],
        lock_dir: str | None,
        *,
        lease: float,
        packages: Sequence[str] = (),
        env_script: str | None = None,
        inputs: Sequence[str] = (),
        timeout: float | None = None,
    ) -> SpareAnswer:
        """Hold the devices for the run and import `packages`; it ends `lease` seconds after it was renewed.

        A host that is held already stays as it is. `inputs` are contents of its store that it keeps. Raises
        AgentError: kind `device_busy`, or `spare_taken` where it is another run's spare.
        """
        return self._spare(
            "spare_hold",
            run_id,
            timeout,
            devices=list(devices),
            lock_dir=lock_dir,
            lease=lease,
            packages=list(packages),
            env_script=env_script,
            inputs=list(inputs),
        )

    def spare_status(self, run_id: str, *, timeout: float | None = None) -> SpareAnswer:
        """How it is. AgentError, kind `no_spare`, where the host is no spare of the run."""
        return self._spare("spare_status", run_id, timeout)

    def spare_renew(self, run_id: str, *, timeout: float | None = None) -> SpareAnswer:
        """As `spare_status`, and its lease begins anew."""
        return self._spare("spare_renew", run_id, timeout)

    def spare_release(self, run_id: str, *, timeout: float | None = None) -> None:
        """Let go of all that is held for the run there, which may be nothing."""
        self._do("spare_release", timeout=timeout, run_id=run_id)

    def _spare(self, verb: str, run_id: str, timeout: float | None, **args: Any) -> SpareAnswer:
        found = self._ask(SpareAnswer, verb, timeout=timeout, run_id=run_id, **args)
        self._expect(found.run_id == run_id, "the spare of the run that was asked about")
        self._expect(len(set(found.devices)) == len(found.devices), "each device once")
        self._expect(all(0 <= device < 1 << 16 for device in found.devices), "the numbers of devices")
        self._expect(len(found.trouble) <= _LONGEST_TROUBLE, "a line")
        seconds = found.warm_seconds
        self._expect(seconds is None or 0 <= seconds < _LONGEST_IMPORT, "the seconds of an import")
        return found
