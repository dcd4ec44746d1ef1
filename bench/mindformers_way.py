"""The three steps of MindFormers' documentation that make one file of a run's shards, in one process.

Usage: mindformers_way.py SHARDS STRATEGY WORK. Needs MindSpore. Steps: merge the strategies; load each shard,
drop the optimizer's state, save it again; transform the checkpoints.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mindspore as ms

MOMENTS = ("adam_m.", "adam_v.")


def main() -> None:
    shards, strategy, work = map(Path, sys.argv[1:])
    merged, clean, whole = work / "merged.ckpt", work / "clean", work / "whole"
    ms.merge_pipeline_strategys(str(strategy), str(merged))
    for home in sorted(shards.glob("rank_*")):
        (path,) = home.glob("*.ckpt")
        values = ms.load_checkpoint(str(path))
        kept = [
            {"name": name, "data": value}
            for name, value in values.items()
            if not name.startswith(MOMENTS) and name != "global_step"
        ]
        (clean / home.name).mkdir(parents=True)
        ms.save_checkpoint(kept, str(clean / home.name / path.name))
    ms.transform_checkpoints(str(clean), str(whole), "whole_", str(merged), None)


main()
