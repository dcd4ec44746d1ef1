"""The steps of all epochs instead of those within one, which the names of MindFormers' checkpoints count.

`llama_rank_0-2_5.ckpt` is the fifth step of epoch 2; which step of the run that is, the file says. Pure data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.checkpoint.shard_index import ShardFile

__all__ = ["by_global_step"]


def by_global_step(listed: Mapping[str, Sequence[ShardFile]]) -> dict[str, list[ShardFile]]:
    """The hosts' files with the step that each itself says.

    One that says nothing, since it is damaged, has that of the files of the same name on other ranks. Files
    of one name that say different steps are of different steps: they are never put together.
    """
    told: dict[tuple[int, int], set[int]] = {}
    for files in listed.values():
        for file in files:
            if file.global_step is not None:
                told.setdefault((file.epoch, file.step), set()).add(file.global_step)

    def counted(file: ShardFile) -> ShardFile:
        said = told.get((file.epoch, file.step), set()) if file.global_step is None else {file.global_step}
        return replace(file, step=next(iter(said))) if len(said) == 1 else file

    return {host: [counted(file) for file in files] for host, files in listed.items()}
