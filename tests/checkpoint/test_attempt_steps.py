"""The newest complete step over attempts, and whose shard each rank takes: as data, no files."""

import pytest

from orchestrator.checkpoint.cut.attempt_steps import (
    SavedAttempt,
    choose_newest,
    copies_of,
    same_slices,
    sources_for,
)
from orchestrator.checkpoint.cut.complete_steps import choose_readable
from orchestrator.checkpoint.cut.slices import Layout
from orchestrator.checkpoint.files.strategy_files import Strategy
from orchestrator.checkpoint.shard_index import ShardFile
from orchestrator.core.errors import AgentError, CheckpointError

# Two replicas of two ranks that share every layer, as the demo has them; moments are not shared out.
STRATEGIES = {
    rank: Strategy(0, {"w": Layout((2, 2), (0,)), "adam_m.w": Layout((2, 2), (0,))}) for rank in range(4)
}
# The same, where the replicas share the optimizer: no shard has an equal.
SHARED = {
    rank: Strategy(0, {"w": Layout((2, 2), (0,)), "adam_m.w": Layout((2, 2), (0,), 2, 2)})
    for rank in range(4)
}
PLACED = {0: "a", 1: "a", 2: "b", 3: "b"}


def saved(number, steps, *, but=(), strategies=STRATEGIES, origin=None, placed=PLACED):
    """What attempt `number` has saved of these steps; without the (rank, step) of `but`."""
    listed = {}
    for rank, host in placed.items():
        for step in steps:
            if (rank, step) not in but:
                path = f"/{number}/{rank}/{step}"
                listed.setdefault(host, []).append(ShardFile(rank, 1, step, 0, path, (1, 2, 3)))
    return SavedAttempt(number, listed, strategies, 4, origin, placed)


def test_the_newest_step_of_the_newest_attempt_that_has_one():
    attempts = [saved(1, (10, 20)), saved(2, (30, 40), but=[(1, 40), (3, 40)])]
    found = choose_newest(attempts)
    assert found.at == (2, 30)
    assert found.notes() == [
        "epoch 1 step 40 is newer but not complete, it lacks rank 1 or 3 on a or b (for w): "
        "epoch 1 step 30 was taken"
    ]


def test_shards_of_two_attempts_are_never_mixed():
    # Step 30 was saved by rank 0 and 1 in the first attempt, and by rank 2 and 3 in the second.
    halves = [
        saved(1, (20, 30), but=[(2, 30), (3, 30)], strategies=SHARED),
        saved(2, (30,), but=[(0, 30), (1, 30)], strategies=SHARED, origin=(1, 20)),
    ]
    found = choose_newest(halves)
    assert found.at == (1, 20)
    assert {path.split("/")[1] for _, path in found.choice.files.values()} == {"1"}
    assert list(found.without) == [2]


def test_an_attempt_that_went_back_has_put_aside_what_came_later():
    attempts = [saved(1, (10, 20, 30)), saved(2, (), origin=(1, 10))]
    assert choose_newest(attempts).at == (1, 10)
    assert choose_newest(attempts, step=30).at == (1, 30)  # asked for by a person
    assert choose_newest([*attempts, saved(3, (15,), origin=(1, 10))]).at == (3, 15)
    # The third went on from the first, not from the second, which has nothing to say.
    aside = [saved(1, (10,)), saved(2, (20, 30), origin=(1, 10)), saved(3, (), origin=(1, 10))]
    assert choose_newest(aside).at == (1, 10)


def test_an_attempt_that_began_anew_goes_on_from_nothing_before():
    anew = [saved(1, (10, 20)), saved(2, (), origin=(0, 0))]
    with pytest.raises(CheckpointError, match="no checkpoints on any host"):
        choose_newest(anew)
    assert choose_newest([anew[0], saved(2, (5,), origin=(0, 0))]).at == (2, 5)


def test_nothing_complete_says_what_lacks_where():
    attempts = [
        saved(1, (10,), but=[(0, 10)], strategies=SHARED),
        saved(2, (20,), but=[(3, 20)], strategies=SHARED),
    ]
    with pytest.raises(
        CheckpointError, match=r"attempt 2: .* lacks rank 3 on b.*; attempt 1: .*lacks rank 0 on a"
    ):
        choose_newest(attempts)
    with pytest.raises(CheckpointError, match="no attempt has saved a checkpoint"):
        choose_newest([])


def test_a_damaged_shard_is_as_a_missing_one_and_that_is_said():
    attempts = [saved(1, (10, 20))]
    damaged = {("b", "/1/3/20"): AgentError("the checksum beside it does not fit")}

    def check(found):
        wanted = set(found.choice.files.values())
        return None, {key: error for key, error in damaged.items() if key in wanted}

    found, _ = choose_readable(lambda failed: choose_newest(attempts, failed=failed), check)
    assert found.at == (1, 20) and sorted(found.choice.files) == [0, 1, 2]  # rank 1 is its replica
    damaged["a", "/1/1/20"] = AgentError("it is cut")
    found, _ = choose_readable(lambda failed: choose_newest(attempts, failed=failed), check)
    assert found.at == (1, 10)
    assert {line.split(": ")[2] for line in found.notes()[:2]} == {e.what for e in damaged.values()}
    assert "step 20 is newer but not complete" in found.notes()[-1]


def test_whose_shards_are_equal():
    assert [same_slices(rank, STRATEGIES) for rank in range(4)] == [(0, 2), (1, 3), (0, 2), (1, 3)]
    assert [same_slices(rank, SHARED) for rank in range(4)] == [(0,), (1,), (2,), (3,)]
    assert same_slices(2, {}) == (2,)
    # The strategies of one host alone tell of the whole stage.
    assert same_slices(0, {rank: STRATEGIES[rank] for rank in (2, 3)}) == (0, 2)


def sources(placed, attempt, **kwargs):
    found = choose_newest([attempt])
    given = sources_for(placed, copies_of(found), attempt.strategies, **kwargs)
    return None if given is None else {rank: (host, file.path) for rank, (host, file) in given.items()}


def test_a_rank_takes_what_its_own_host_has():
    assert sources(PLACED, saved(1, (20,))) == {
        0: ("a", "/1/0/20"),
        1: ("a", "/1/1/20"),
        2: ("b", "/1/2/20"),
        3: ("b", "/1/3/20"),
    }
    # Hosts in the other order: each has a replica of what its new ranks need, and nothing moves.
    swapped = {0: "b", 1: "b", 2: "a", 3: "a"}
    assert {rank: host for rank, (host, _) in sources(swapped, saved(1, (20,))).items()} == swapped


def test_a_spare_gets_the_shards_of_replicas():
    lost = saved(1, (20,), but=[(0, 20), (1, 20)])
    assert sources({0: "spare", 1: "spare", 2: "b", 3: "b"}, lost) == {
        0: ("b", "/1/2/20"),
        1: ("b", "/1/3/20"),
        2: ("b", "/1/2/20"),
        3: ("b", "/1/3/20"),
    }


def test_without_an_equal_shard_it_has_to_be_cut_anew():
    partly = saved(
        1,
        (20,),
        but=[(1, 20)],
        strategies={rank: Strategy(0, {"w": Layout((2, 2), (0,))}) for rank in range(4)},
    )
    assert sources(PLACED, partly)[1] == ("b", "/1/3/20")
    alone = {rank: Strategy(0, {"w": Layout((1, 4), (0,))}) for rank in range(4)}
    found = choose_newest([saved(1, (20,), strategies=alone)])
    copies = {rank: files for rank, files in copies_of(found).items() if rank != 2}
    assert sources_for(PLACED, copies, alone) is None


def test_sources_are_found_for_thousands_of_ranks():
    """Each of 500 replicas of 8 cut ranks; a host that is gone takes what others have."""
    strategy = Strategy(0, {"w": Layout((500, 8), (0,)), "b": Layout((500, 8), (-1,))})
    strategies = {rank: strategy for rank in range(0, 4000, 8)}
    placed = {rank: f"h{rank // 8:03}" for rank in range(4000)}
    copies = {
        rank: {placed[rank]: ShardFile(rank, 1, 10, 0, f"/{rank}", (1, 2, 3))} for rank in range(8, 4000)
    }
    found = sources_for(placed, copies, strategies)
    assert all(found[rank] == (placed[rank], copies[rank][placed[rank]]) for rank in range(8, 4000))
    assert [found[rank][1].rank % 8 for rank in range(8)] == list(range(8))
    assert sources_for({0: "h000", 1: "h000"}, {9: copies[9]}, strategies) is None
