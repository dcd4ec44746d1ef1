"""The steps of all epochs: what the files say, where their names count those of an epoch."""

from orchestrator.checkpoint.cut.global_steps import by_global_step
from orchestrator.checkpoint.shard_index import ShardFile


def shard(rank: int, epoch: int, step: int, inside: int | None) -> ShardFile:
    return ShardFile(rank, epoch, step, 0, f"/x/llama_rank_{rank}-{epoch}_{step}.ckpt", global_step=inside)


def steps(listed: dict[str, list[ShardFile]]) -> list[int]:
    return [file.step for files in by_global_step(listed).values() for file in files]


def test_files_say_which_step_they_are_of() -> None:
    assert steps({"a": [shard(0, 1, 20, 20), shard(0, 2, 5, 25)], "b": [shard(1, 2, 5, 25)]}) == [20, 25, 25]


def test_one_that_says_nothing_is_of_the_step_of_its_name_on_other_ranks() -> None:
    assert steps({"a": [shard(0, 2, 5, None)], "b": [shard(1, 2, 5, 25)]}) == [25, 25]
    assert steps({"a": [shard(0, 2, 5, None)], "b": [shard(1, 2, 6, 26)]}) == [5, 26]


def test_files_of_one_name_that_disagree_are_of_different_steps() -> None:
    listed = {"a": [shard(0, 2, 5, 25)], "b": [shard(1, 2, 5, 24), shard(2, 2, 5, None)]}
    assert steps(listed) == [25, 24, 5]


def test_others_stay_as_they_are() -> None:
    listed = {"a": [shard(0, 2, 5, None)]}
    assert by_global_step(listed) == listed
