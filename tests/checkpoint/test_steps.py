import pytest

from orchestrator.agent.shard_ranges import list_shards, parse_name
from orchestrator.checkpoint.cut.complete_steps import choose_step
from orchestrator.checkpoint.cut.slices import Layout
from orchestrator.checkpoint.files.strategy_files import Strategy
from orchestrator.checkpoint.shard_index import ShardFile
from orchestrator.core.errors import CheckpointError

STRATEGIES = {
    rank: Strategy(0, {"w": Layout((2, 2), (0,)), "adam_m.w": Layout((2, 2), (0,), 2, 2)})
    for rank in range(4)
}


def files(*rows):
    return [ShardFile(rank, 1, step, 0, f"rank_{rank}/{step}") for rank, step in rows]


def both(*steps, but=()):
    rows = [(rank, step) for rank in range(4) for step in steps if (rank, step) not in but]
    return {
        "a": files(*(row for row in rows if row[0] < 2)),
        "b": files(*(row for row in rows if row[0] > 1)),
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("rank_0/mindformers_rank_0-1_8.ckpt", (0, 0, 1, 8)),
        ("rank_3/mindformers_rank_3_1-2_18.ckpt", (3, 1, 2, 18)),
        ("x/my_rank_9_rank_12-1_8.ckpt", (12, 0, 1, 8)),
        ("rank_5/CKP-3_7.ckpt", (5, 0, 3, 7)),
        ("rank_5/CKP_2-3_7.ckpt", (5, 2, 3, 7)),
        ("other/CKP-3_7.ckpt", None),
        ("rank_0/mindformers_rank_0-1_8.ckpt.part", None),
        ("rank_0/.mindformers_rank_0-1_8.ckpt.12.part", None),
        ("rank_0/mindformers_rank_0-network.ckpt", None),
        ("rank_0/mindformers_rank_0-graph.meta", None),
    ],
)
def test_names(path, expected):
    row = parse_name(path)
    assert (tuple(row[key] for key in ("rank", "rerun", "epoch", "step")) if row else None) == expected


def test_a_folder_is_listed_in_numeric_order(tmp_path):
    (tmp_path / "rank_10").mkdir()
    (tmp_path / "rank_2").mkdir()
    for name in (
        "rank_10/m_rank_10-1_5.ckpt",
        "rank_2/m_rank_2-10_5.ckpt",
        "rank_2/m_rank_2-9_5.ckpt",
        "x.txt",
    ):
        (tmp_path / name).touch()
    rows = list_shards(str(tmp_path))
    assert [(row["rank"], row["epoch"]) for row in rows] == [(2, 9), (2, 10), (10, 1)]
    assert list_shards(str(tmp_path / "none")) == []


def test_numbers_decide_and_not_letters():
    assert choose_step(both(9, 10, 100), STRATEGIES, 4).step == 100
    listed = {"a": [ShardFile(0, epoch, 5, 0, str(epoch)) for epoch in (9, 10)]}
    assert choose_step(listed, {}, 1).epoch == 10


def test_a_rank_that_is_late_makes_the_step_incomplete():
    late = both(10, 20, but=[(1, 20), (3, 20)])
    choice = choose_step(late, STRATEGIES, 4)
    assert (choice.step, choice.incomplete) == (10, ((1, 20),))
    assert choice.files == {
        0: ("a", "rank_0/10"),
        1: ("a", "rank_1/10"),
        2: ("b", "rank_2/10"),
        3: ("b", "rank_3/10"),
    }


def test_a_replica_stands_in():
    choice = choose_step(both(10, 20, but=[(1, 20)]), STRATEGIES, 4)
    assert (choice.step, sorted(choice.files)) == (20, [0, 2, 3])
    with_moments = choose_step(both(10, 20, but=[(1, 20)]), STRATEGIES, 4, with_optimizer=True)
    assert with_moments.step == 10


def test_a_step_can_be_asked_for():
    assert choose_step(both(10, 20), STRATEGIES, 4, step=10).step == 10
    with pytest.raises(CheckpointError, match=r"no rank has saved step 15 .*step 20, epoch 1 step 10"):
        choose_step(both(10, 20), STRATEGIES, 4, step=15)
    with pytest.raises(CheckpointError, match=r"epoch 1 step 20 lacks rank 1 or 3 .*step 20 by rank 0, 2"):
        choose_step(both(10, 20, but=[(1, 20), (3, 20)]), STRATEGIES, 4, step=20)


def test_nothing_complete_and_nothing_at_all():
    with pytest.raises(CheckpointError, match="lacks rank 0 or 2"):
        choose_step({"a": files((1, 10), (3, 10))}, STRATEGIES, 4)
    with pytest.raises(CheckpointError, match=r"no checkpoints on a, b .*save_steps"):
        choose_step({"a": [], "b": []}, STRATEGIES, 4)
    with pytest.raises(CheckpointError, match="lacks rank 4 or 5 or 6 or 7"):
        choose_step(both(10), STRATEGIES, 8)


def test_without_strategies_every_rank_is_needed_unless_they_are_replicas():
    lone = {"a": files((0, 10))}
    with pytest.raises(CheckpointError, match="lacks rank 1"):
        choose_step(lone, {}, 2)
    assert choose_step(lone, {}, 2, replicated=True).step == 10


def test_the_last_rerun_counts():
    listed = {"a": [ShardFile(0, 1, 5, rerun, f"run{rerun}") for rerun in (0, 2, 1)]}
    assert choose_step(listed, {}, 1).files[0] == ("a", "run2")


def test_a_shared_folder_is_read_by_all_its_hosts():
    every = files(*((rank, 10) for rank in range(4)))
    choice = choose_step({"a": every, "b": every}, STRATEGIES, 4)
    assert [choice.files[rank][0] for rank in range(4)] == ["a", "b", "a", "b"]
