"""The grace of a stop: for how long workers are let live that were told to end. Pure.

Who announced `save` answers SIGTERM by a checkpoint, which takes the steps until all have agreed on one and
the time of a save, both twice, since one may just have begun. Who has announced nothing, or has made no step
yet, gets what the job says. The others of one that has failed wait for it in vain: they get a moment, unless
they save what they have at the end of their lives.
"""

from __future__ import annotations

import re
from typing import Iterable, Mapping, Optional

from orchestrator.core.ends import StopKind, StopReason
from orchestrator.core.records import Manifest, RankStatus

__all__ = [
    "END_OF_LIFE_SAVE",
    "SAVE",
    "STACKS",
    "TFT",
    "grace_of",
    "saves_at_its_end",
    "tft_saves",
    "will_save",
]

# What a worker announces, see `core.records.Phase`.
SAVE, STACKS, END_OF_LIFE_SAVE = "save", "stacks", "end_of_life_save"
_MARGIN = 5.0
# As long as nobody has seen a save.
_FIRST_SAVE = 120.0
_LONGEST = 1800.0
# Of these kinds the others of the gang are not there any more, or not to be waited for.
_WITHOUT_SAVE = frozenset(
    {StopKind.WORKER_FAILED, StopKind.LAUNCH_LAPSED, StopKind.RANKS_DONE, StopKind.LEASE_ENDED}
)
# MindSpore's switches of the checkpoint at the end of a life; UCE and ARF switch TTP on.
# https://www.mindspore.cn/docs: environment variable MS_ENABLE_TFT; mindspore/train/model.py
TFT = "MS_ENABLE_TFT"
_TFT_SAVES = re.compile(r"\b(?:TTP|UCE|ARF) ?: ?1\b")


def will_save(reason: StopReason, ranks: Iterable[RankStatus]) -> bool:
    """Whether these ranks, which run, answer a stop by a checkpoint: not if one of them does not go on."""
    running = list(ranks)
    if reason.kind in _WITHOUT_SAVE or any(rank.stalled is not None for rank in running):
        return False
    return any(SAVE in rank.can and rank.progress for rank in running)


def grace_of(
    manifest: Manifest,
    reason: StopReason,
    ranks: Iterable[RankStatus],
    step_seconds: Optional[float],
    save_seconds: Optional[float],
) -> float:
    """The seconds between SIGTERM and SIGKILL; `ranks` are those that run, the seconds those of a step and a
    save as far as they are known."""
    running = list(ranks)
    if reason.kind is StopKind.WORKER_FAILED:
        saving = any(END_OF_LIFE_SAVE in rank.can for rank in running) or saves_at_its_end(manifest)
        return manifest.grace if saving else manifest.failure_grace
    if not will_save(reason, running):
        return manifest.grace
    known = _FIRST_SAVE if save_seconds is None else save_seconds
    return max(manifest.grace, min(_LONGEST, 2 * (step_seconds or 0.0) + 2 * known + _MARGIN))


def saves_at_its_end(manifest: Manifest) -> bool:
    """Whether the job has MindSpore save what is there when another rank has failed."""
    environments: Iterable[Mapping[str, str]] = (
        {**spec.default_env, **spec.env} for spec in manifest.workers
    )
    return any(tft_saves(env.get(TFT, "")) for env in environments)


def tft_saves(value: str) -> bool:
    """Whether this value of MS_ENABLE_TFT switches that checkpoint on."""
    return _TFT_SAVES.search(value) is not None
