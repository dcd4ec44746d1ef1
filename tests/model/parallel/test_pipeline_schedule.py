from __future__ import annotations

import pytest

from model.parallel.pipeline_schedule import Action, Work, schedule

SHAPES = [(stages, micro) for stages in (1, 2, 3, 4, 7) for micro in (1, 2, 3, 4, 8, 13)]
# A send and the receive that it meets, as (work of the stage before, work of the stage behind).
MEETINGS = {
    Work.SEND_FORWARD: (1, Work.RECEIVE_FORWARD),
    Work.RECEIVE_BACKWARD: (1, Work.SEND_BACKWARD),
    Work.RECEIVE_FORWARD: (-1, Work.SEND_FORWARD),
    Work.SEND_BACKWARD: (-1, Work.RECEIVE_BACKWARD),
}


def run_with_sends_that_wait(stages, micro_batches):
    """Step all stages with sends that return only when they are received; gives the rounds it took."""
    todo = [list(schedule(stage, stages, micro_batches)) for stage in range(stages)]
    rounds = 0
    while any(todo):
        rounds += 1
        moved = False
        for stage in range(stages):
            while todo[stage]:
                action = todo[stage][0]
                if action.work in MEETINGS:
                    step, wanted = MEETINGS[action.work]
                    other = todo[stage + step]
                    if not other or other[0] != Action(wanted, action.micro):
                        break
                    other.pop(0)
                todo[stage].pop(0)
                moved = True
        assert moved, f"stages wait for one another: {[part[:1] for part in todo]}"
    return rounds


@pytest.mark.parametrize(("stages", "micro_batches"), SHAPES)
def test_no_stage_waits_for_ever(stages, micro_batches):
    assert run_with_sends_that_wait(stages, micro_batches) >= 1


@pytest.mark.parametrize(("stages", "micro_batches"), SHAPES)
def test_every_micro_batch_goes_forward_and_back_once_and_few_are_held(stages, micro_batches):
    for stage in range(stages):
        actions = list(schedule(stage, stages, micro_batches))
        for work in Work:
            done = [action.micro for action in actions if action.work is work]
            between = work in (Work.FORWARD, Work.BACKWARD)
            forward_side = (
                stage > 0 if work in (Work.RECEIVE_FORWARD, Work.SEND_BACKWARD) else stage < stages - 1
            )
            assert done == (list(range(micro_batches)) if between or forward_side else [])
        held = most = 0
        for action in actions:
            held += (action.work is Work.FORWARD) - (action.work is Work.BACKWARD)
            most = max(most, held)
        assert most == min(stages - stage, micro_batches)
