"""The checks of a host's answers beyond their types: whose ranks they are, what of them can be shown."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Collection, Container, Iterable, Mapping
from typing import Any

from orchestrator.core.codec import from_json
from orchestrator.core.ends import SCHEDULER
from orchestrator.core.host_answers import Label, RankStacks, RunId, Sha256, StacksAnswer, TensorEntry
from orchestrator.core.push import Beat, Change, Digest, Pushed, Snapshot
from orchestrator.core.records import CopyStatus, HostStatus, RankStatus, RunOnHost
from orchestrator.core.visible_text import visible
from orchestrator.formats.ckpt_index import ITEM_SIZES
from orchestrator.hosts.conversation import shown

__all__ = [
    "LARGEST",
    "LATEST",
    "MOST_RANKS",
    "is_tensor",
    "made_visible",
    "pushed_of",
    "run_of",
    "stacks_of",
    "status_of",
]

LATEST = 1e11  # seconds since the epoch: the year 5138
LARGEST = 1e15
MOST_RANKS = 10**7
_LONGEST_STACKS = 1 << 17  # characters; agents send less
_LONGEST_SAVE = 1e6  # seconds; agents pass over what is longer
_MOST_WORDS, _LONGEST_WORD = 16, 64  # of what a worker announces
_MOST_STEPS_COPIED = 8
_COPIED = re.compile(r"(?:(?:rank_\d{1,7}|strategy)/)?[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}", re.ASCII)


def status_of(data: Any, run_id: str, world_size: int) -> HostStatus:
    """The status that JSON with visible texts stands for. Raises ValueError where it is not of this run."""
    status = from_json(HostStatus, _within_reach(data))
    _require(status.run_id == run_id, "the status of the run that was asked for")
    ranks = _checked(status.ranks, status.scheduler, world_size)
    _check_copies(status.copies, len(ranks))
    return dataclasses.replace(status, ranks=ranks)


def _check_copies(copies: CopyStatus | None, ranks: int) -> None:
    """The copies that a host of so many ranks can have made."""
    if copies is None:
        return
    _require(len(copies.files) <= _MOST_STEPS_COPIED * ranks, "the copies of the host's own ranks")
    _require(copies.lag >= 0 and max(len(copies.error), len(copies.keeper)) <= _LONGEST_TEXT, "short words")
    for file in copies.files:
        _require(_COPIED.fullmatch(file.name) is not None and file.size >= 0, "the names of shards")
        Sha256(file.sha256)


def _checked(
    ranks: tuple[RankStatus, ...], scheduler: RankStatus | None, world_size: int
) -> tuple[RankStatus, ...]:
    """The ranks of a host, with what can be shown of their progress."""
    numbers = [rank.rank for rank in ranks]
    _require(all(0 <= rank < world_size for rank in numbers), f"ranks from 0 to {world_size - 1}")
    _require(len(set(numbers)) == len(numbers), "each rank once")
    _require(scheduler is None or scheduler.rank == SCHEDULER, "a scheduler that is no rank")
    words = [rank.can for rank in ranks]
    _require(all(len(can) <= _MOST_WORDS for can in words), f"{_MOST_WORDS} words or fewer")
    _require(all(len(word) <= _LONGEST_WORD for can in words for word in can), "short words")
    saves = [each for rank in ranks for each in (rank.save_stall, rank.save_write) if each is not None]
    _require(all(0 <= seconds <= _LONGEST_SAVE for seconds in saves), "the seconds of a save")
    # A program of the user's may write what it likes into its metrics: what cannot be shown is left out.
    return tuple(dataclasses.replace(rank, progress=_progress(rank.progress)) for rank in ranks)


_EVENTS: Mapping[str, type[Any]] = {kind.EVENT: kind for kind in (Snapshot, Change, Digest, Beat)}


def pushed_of(
    name: str, data: Any, run_id: str, world_size: int, placed: frozenset[int] | None
) -> Pushed | None:
    """What an event of a watched run says; None for one that is not known, say of a newer version.

    `placed` are the host's ranks, where that is known. Raises ValueError where it is not of this run.
    """
    kind = _EVENTS.get(name)
    if kind is None:
        return None
    own: Collection[int] = range(world_size) if placed is None else placed
    if kind is Digest and (usual := _usual_digest(data, own)) is not None:
        return usual
    told: Pushed = from_json(kind, _cleaned(data))
    _require(0 <= told.sequence < LARGEST and 0 <= told.clock <= LATEST, "a sequence and a time")
    if isinstance(told, Snapshot):
        status = told.status
        _require(status.run_id == run_id, "the status of the run that is watched")
        ranks = _checked(status.ranks, status.scheduler, world_size)
        _check_copies(status.copies, len(ranks))
        _require(placed is None or {rank.rank for rank in ranks} == placed, "the host's own ranks")
        return dataclasses.replace(told, status=dataclasses.replace(status, ranks=ranks))
    if isinstance(told, Change):
        ranks = _checked(told.ranks, told.scheduler, world_size)
        _require(all(rank.rank in own for rank in ranks), "the host's own ranks")
        _check_copies(told.copies, len(own))
        return dataclasses.replace(told, ranks=ranks)
    return _checked_digest(told, own) if isinstance(told, Digest) else told


def _checked_digest(told: Digest, own: Container[int]) -> Digest:
    _require(0 <= told.low <= told.high < LARGEST, "a lowest and a highest step")
    _require(told.seconds is None or 0 <= told.seconds < LARGEST, "the seconds of a step")
    steps = told.steps
    _require(all(rank.isdecimal() and int(rank) in own for rank in steps), "the host's own ranks")
    _require(all(told.low <= step <= told.high for step in steps.values()), "steps between the two")
    _require(told.rank is None or told.rank in own, "the host's own ranks")
    compute = told.compute
    _require(all(rank.isdecimal() and int(rank) in own for rank in compute), "the host's own ranks")
    _require(all(0 <= seconds < LARGEST for seconds in compute.values()), "the seconds of a step")
    return dataclasses.replace(told, numbers=_progress(told.numbers))


def _usual_digest(data: Any, own: Container[int]) -> Digest | None:
    """A digest as agents of ours write it, checked in one walk; None for one that must be looked at closely.

    Digests are nearly all that hosts say while a run goes well, and what a steady monitor's time goes into.
    """
    if type(data) is not dict or data.keys() != _DIGEST or type(data["clock"]) is not float:
        return None
    rank, low, high, seconds = data["rank"], data["low"], data["high"], data["seconds"]
    numbers, first = data["numbers"], None
    if type(numbers) is dict and "first" in numbers:
        numbers = dict(numbers)
        first = numbers.pop("first")
        if type(first) is not dict:
            return None
        first = {name: value for name, value in first.items() if name in _TOLD}
    is_usual = (
        type(data["sequence"]) is type(rank) is type(low) is type(high) is int
        and 0 <= data["sequence"] < LARGEST
        and 0 <= data["clock"] <= LATEST
        and 0 <= low <= high < LARGEST
        and rank in own
        and (seconds is None or (type(seconds) is float and 0 <= seconds < LARGEST))
        and _are_of_ranks(data["steps"], own, int, low, high)
        and _are_of_ranks(data["compute"], own, float, 0, LARGEST)
        and _are_usual(numbers)
        and (first is None or _are_usual(first))
    )
    if not is_usual:
        return None
    return Digest(**{**data, "numbers": numbers if first is None else {**numbers, "first": first}})


def _are_of_ranks(data: Any, own: Container[int], kind: type[Any], low: float, high: float) -> bool:
    """Whether these are values of one type and of the host's own ranks, within bounds below the largest."""
    return type(data) is dict and all(
        type(value) is kind
        and low <= value <= high
        and value < LARGEST
        and len(rank) < 10
        and rank.isdecimal()
        and int(rank) in own
        for rank, value in data.items()
    )


def _are_usual(numbers: Any) -> bool:
    """Whether a worker's progress can be kept as it is: few names, numbers within reach, plain texts."""
    if type(numbers) is not dict or len(numbers) > _MOST_NAMES:
        return False
    for name, value in numbers.items():
        kind = type(value)
        if kind is int or (kind is float and name not in _COUNTS):
            if not (0 if name in _COUNTS else -LARGEST) <= value < LARGEST or value == -LARGEST:
                return False
        elif kind is not str or name in _TOLD or len(value) > _LONGEST_TEXT or not value.isprintable():
            return False
        if name not in _TOLD and (len(name) > _LONGEST_TEXT or not name.isprintable()):
            return False
    return True


def run_of(data: Any) -> RunOnHost:
    """A run that a host tells of; with a `problem` in place of one that cannot be."""
    try:
        run = from_json(RunOnHost, data)
        if run.manifest is None:
            return RunOnHost(problem=shown(run.problem or "a run without a manifest"))
        _require(all(Label(each.label).rank == each.rank for each in run.manifest.workers), "labels of ranks")
        _require(0 <= run.manifest.created <= LATEST, "a time")
        # A manifest is taken as it is; the texts of a status are shown.
        run_id = RunId(run.manifest.run_id)
        _require(0 <= run.epoch < LARGEST and 0 <= run.over < LARGEST, "a claim, and an attempt that is over")
        return RunOnHost(
            run.manifest,
            status_of(made_visible(data.get("status")), run_id, MOST_RANKS),
            epoch=run.epoch,
            holder=visible(run.holder[:_LONGEST_TEXT]),
            over=run.over,
        )
    except ValueError as error:
        return RunOnHost(problem=f"a run that cannot be read: {shown(error, 200)}")


def stacks_of(data: Any) -> StacksAnswer:
    """The stacks that JSON stands for, their lines made visible. Raises ValueError where it cannot be."""
    told = from_json(StacksAnswer, data)
    _require(all(Label.FORM.fullmatch(f"rank_{rank}") for rank in told.ranks), "the numbers of ranks")
    texts = [text for each in told.ranks.values() for text in (each.text, each.state)]
    _require(all(len(text) <= _LONGEST_STACKS for text in texts), f"{_LONGEST_STACKS} characters or fewer")
    shown_ones = {
        rank: RankStacks(
            made_visible(each.how), *(made_visible(t, keep="\n") for t in (each.text, each.state))
        )
        for rank, each in told.ranks.items()
    }
    _require(all(len(each.how) <= _LONGEST_WORD for each in shown_ones.values()), "a short word")
    return StacksAnswer(shown_ones)


def _require(fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(f"expected {what}")


# What is counted with, of a worker's progress; a value that is no number is left out.
_COUNTS = ("step", "total_steps")
_NUMBERS = ("loss", "lr", "grad_norm", "tokens_per_s", "step_time_s", "time", "loss_scale", "mfu", "skipped")
_TOLD = frozenset((*_COUNTS, *_NUMBERS))
_DIGEST = {field.name for field in dataclasses.fields(Digest)}


# Of what a worker tells besides: so many names, and of a text so much.
_MOST_NAMES, _LONGEST_TEXT = 64, 1000


def _progress(data: Mapping[str, Any]) -> dict[str, Any]:
    shown_ones = (name for name, value in data.items() if _can_be_shown(name, value))
    kept = {name: data[name] for name in itertools.islice(shown_ones, _MOST_NAMES)}
    if isinstance(data.get("first"), Mapping):
        first = data["first"]
        kept["first"] = {name: first[name] for name in (*_COUNTS, *_NUMBERS) if _is_told(name, first)}
    return kept


def _can_be_shown(name: str, value: Any) -> bool:
    if name in _COUNTS:
        return type(value) is int and 0 <= value < LARGEST
    if name in _NUMBERS:
        # A loss may be NaN, and is to be seen then; a time or a rate may not.
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and (abs(value) < LARGEST or name in ("loss", "grad_norm"))
    is_small = isinstance(value, (int, float)) or (isinstance(value, str) and len(value) <= _LONGEST_TEXT)
    return name != "first" and len(name) <= _LONGEST_TEXT and (value is None or is_small)


def _is_told(name: str, data: Mapping[str, Any]) -> bool:
    return name in data and _can_be_shown(name, data[name])


def is_tensor(entry: TensorEntry) -> bool:
    """Whether its pieces are as long as its shape and type say, and its name can be shown."""
    item = ITEM_SIZES.get(entry.dtype)
    have = sum(length for _, length in entry.pieces)
    if item is None or not entry.name.isprintable() or len(entry.dims) > 32:
        return False
    return have % item == 0 if entry.dtype == "str" else have == item * math.prod(entry.dims)


def made_visible(value: Any, keep: str = "", raw: Iterable[str] = ()) -> Any:
    """JSON with every text in it made visible, keys too, but what is at the keys `raw`."""
    if isinstance(value, str):
        return visible(value if "\t" in keep else value.expandtabs(4), keep)
    if isinstance(value, list):
        return [made_visible(each, keep, raw) for each in value]
    if isinstance(value, dict):
        return {
            visible(name): each if name in raw else made_visible(each, keep, raw)
            for name, each in value.items()
        }
    return value


def _cleaned(value: Any) -> Any:
    """JSON both made visible and within reach, in one walk: of what hosts push there is much."""
    kind = type(value)
    if kind is str:
        return value if value.isprintable() else visible(value.expandtabs(4))
    if kind is dict:
        return {visible(name): _cleaned(each) for name, each in value.items()}
    if kind is list:
        return [_cleaned(each) for each in value]
    return _within_reach(value)


def _within_reach(value: Any) -> Any:
    """JSON with None for numbers that no clock and no counter reaches: they break what reckons with them."""
    if isinstance(value, list):
        return [_within_reach(each) for each in value]
    if isinstance(value, dict):
        return {name: _within_reach(each) for name, each in value.items()}
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return None if is_number and LARGEST <= abs(value) < math.inf else value
