"""The parser of MindFormers' log: lines as the code of each version prints them, and what looks like them.

The lines are recorded (tests/fixtures/mindformers_lines.json, by `python -m tests.agent.mindformers_wheels`);
with the wheels at hand (MINDFORMERS_WHEELS) they are made anew and compared.
"""

from __future__ import annotations

import datetime
import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agent.metrics_lines import said_in
from orchestrator.agent.mindformers_lines import EVALUATES, MindFormersLines, is_told_by_mindformers
from orchestrator.core.records import Phase
from tests.agent.mindformers_wheels import LOSSES, RECORDED, START, VERSIONS, scenes, wheels

LINES: dict[str, dict[str, list[str]]] = json.loads(RECORDED.read_text(encoding="utf-8"))
NEW = "1.9.0"


def read(
    lines: list[str], *, rank: int = 0, world: int = 2, now: float = START + 2, **more: Any
) -> list[dict[str, Any]]:
    """What the parser makes of lines, all of them found at one look by a host whose clock is UTC's."""
    return MindFormersLines(rank, world, START - 60.0, **more).feed(lines, now)


def steps(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in found if "phase" not in line and "can" not in line]


def phases(found: list[dict[str, Any]]) -> list[str]:
    return [line["phase"] for line in found if "phase" in line]


def is_from(version: str, first: str) -> bool:
    """Whether a version is this one or a later one."""
    return VERSIONS.index(version) >= VERSIONS.index(first)


def header(text: str, *, level: str = "INFO", clock: str = "2025-11-26 11:12:13,000") -> str:
    where = "mindformers/core/callback/callback.py:747"
    return f"{clock} - mindformers./output/log[{where}] - {level} - {text}"


def step_line(step: int = 2, *, each: int = 4, ms: int = 314, loss: str = "8.125000", epoch: int = 1) -> str:
    return (
        f"{{ Epoch:[{epoch:3d}/  2], step:[{step:5d}/{each:5d}], loss:[{loss}/{loss}], "
        f"per_step_time: {ms}ms, lr: 1e-05, overflow cond: False, loss_scale: 1.0, global_norm: [0.9909903]"
    )


# What each version prints.


@pytest.mark.parametrize("version", VERSIONS)
def test_the_recorded_lines_are_what_the_code_of_the_wheel_prints(version: str, tmp_path: Path) -> None:
    if version not in wheels():
        pytest.skip(f"no wheel of mindformers {version} (MINDFORMERS_WHEELS): the recorded lines are used")
    assert scenes(version, tmp_path) == LINES[version]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_step_of_each_version(version: str) -> None:
    found = steps(read(LINES[version]["plain"], tokens=8))

    assert [(line["step"], line["total_steps"]) for line in found] == [(1, 8), (2, 8), (3, 8)]
    digits = 6 if is_from(version, "1.7.0") else 3
    assert [line["loss"] for line in found] == [round(loss, digits) for loss in LOSSES]
    assert [line["lr"] for line in found] == [1e-5, 2e-5, 3e-5]
    assert [line["loss_scale"] for line in found] == [65536.0, 32768.0, 16384.0]
    assert [line.get("skipped", False) for line in found] == [False, True, False]
    assert [line["step_time_s"] for line in found] == [0.313, 0.313, 0.313]  # 314 ms, cut off
    norms = [pytest.approx(0.9909903 + number) for number in range(3)]
    assert [line.get("grad_norm") for line in found] == (norms if is_from(version, "1.3.0") else [None] * 3)
    per_device = 7.962 if is_from(version, "1.6.0") else None
    assert [line.get("tflops_per_device") for line in found] == [per_device] * 3
    # 4 samples in 0.314 s by both devices: the number that is printed has two digits, or five.
    assert [line["samples_per_s"] for line in found] == [pytest.approx(4 / 0.314, rel=1e-3)] * 3
    assert [line["tokens_per_s"] for line in found] == [pytest.approx(8 * 4 / 0.314, rel=1e-3)] * 3
    assert [line["time"] for line in found] == [
        pytest.approx(START + 0.314 * (number + 1), abs=2e-3) for number in range(3)
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_same_of_a_file(version: str) -> None:
    (line,) = steps(read(LINES[version]["file"]))
    assert line == {**steps(read(LINES[version]["plain"]))[0], **line}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_that_went_on_counts_from_its_own_step(version: str) -> None:
    """Two epochs of four steps, and five are made: the sixth is the second of the second epoch."""
    assert [line["step"] for line in steps(read(LINES[version]["resumed"]))] == [6, 7]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_sink_is_a_line(version: str) -> None:
    found = steps(read(LINES[version]["sink"]))
    assert [(line["step"], line["total_steps"]) for line in found] == [(2, 8), (4, 8), (6, 8)]
    assert [line["loss"] for line in found] == [pytest.approx(loss, abs=1e-3) for loss in LOSSES]
    assert [line["step_time_s"] for line in found] == [0.314, 0.314, 0.314]  # of a step, not of a sink
    assert "mean_loss" not in found[0]


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_learning_rate_there_is_none(version: str) -> None:
    (line,) = steps(read(LINES[version]["no_rate"]))
    assert "lr" not in line and "grad_norm" not in line
    assert line["loss"] == pytest.approx(LOSSES[0], abs=1e-3)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_loss_is_that_of_the_last_stage(version: str) -> None:
    lines = LINES[version]["pipeline"]
    told = [steps(read(lines, rank=rank, world=4))[0].get("loss") for rank in range(4)]
    assert told == [None, None, *[pytest.approx(LOSSES[0] / 2, abs=1e-3)] * 2]
    assert steps(read(lines, rank=0, world=4))[0]["step"] == 1


def test_with_a_zero_bubble_the_loss_is_that_of_rank_0() -> None:
    lines = [
        header("When zero_bubble_v is enabled, loss is valid only on rank 0", level="WARNING"),
        header(step_line()),
    ]
    assert ["loss" in steps(read(lines, rank=rank))[0] for rank in (0, 1)] == [True, False]


@pytest.mark.parametrize("version", [version for version in VERSIONS if is_from(version, "1.7.0")])
def test_losses_beside_the_loss(version: str) -> None:
    (line,) = steps(read(LINES[version]["parts"]))
    assert (line["lm_loss"], line["load_balancing_loss"], line["mtp_loss"]) == (2.5, 0.25, 0.125)
    assert line["loss"] == pytest.approx(LOSSES[0], abs=1e-3)


@pytest.mark.parametrize("version", [version for version in VERSIONS if "nan" in LINES[version]])
def test_a_loss_that_is_none_is_seen(version: str) -> None:
    (line,) = steps(read(LINES[version]["nan"]))
    assert math.isnan(line["loss"]) and line["step"] == 1


@pytest.mark.parametrize("version", ["1.9.0", "2.0.0", "2.1.0"])
def test_steps_of_pynative(version: str) -> None:
    first, *more = steps(read(LINES[version]["pynative"]))
    assert (first["step"], first["total_steps"], first["loss"]) == (7, 20, 8.287561)
    assert (first["lr"], first["grad_norm"], first["step_time_s"]) == (1e-5, 0.99099, 0.314)
    # Before 2.1.0 it is milliseconds that are taken for seconds there.
    assert first.get("tflops_per_device") == (12.34 if version == "2.1.0" else None)
    assert more == []  # the same step again: that of a stage without a loss

    lines = LINES[version]["pynative"][1:]
    assert [(line["step"], "loss" in line, "grad_norm" in line) for line in steps(read(lines))] == (
        [(7, False, False)] if lines else []
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_phases_until_the_first_step(version: str) -> None:
    found = read([*LINES[version]["trainer"], *LINES[version]["plain"]])
    assert phases(found) == ["init", "compile", "step"]
    assert [line["can"] for line in found if "can" in line] == [[EVALUATES]]


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_tells_when_a_save_begins(version: str) -> None:
    for text in LINES[version]["saves"]:
        assert phases(read([text])) == ["save"]
    news = [header(step_line(3))]
    found = read([*LINES[version]["plain"][:4], LINES[version]["saves"][0], *news])
    assert phases(found) == ["step", "save", "step"]
    assert [line["step"] for line in steps(found)] == [1, 2, 3]


@pytest.mark.parametrize("version", [version for version in VERSIONS if "whole" in LINES[version]])
def test_a_checkpoint_that_is_whole(version: str) -> None:
    """Epochs of four steps: step 6 is the second of the second epoch, which is what the line says."""
    saves = [LINES[version]["saves"][0], header("step_num: 6"), *LINES[version]["whole"]]
    last = read([header(step_line(2, epoch=2)), *saves])[-1]
    assert (last["phase"], last["saved"], last["write_s"]) == ("step", 6, 0.146)


# Saves.


def test_a_save_is_named_only_if_its_step_can_be() -> None:
    def saved(*lines: str) -> Any:
        return next((line["saved"] for line in read(list(map(header, lines))) if "saved" in line), None)

    begun, whole = "......Saving ckpt......", "Finish saving ckpt of epoch 1 step 2 using 0.146 seconds"
    assert saved(step_line(2), begun, "step_num: 2", whole) == 2
    assert saved(step_line(2), begun, whole) is None  # 1.3.0 and earlier: nobody says which
    assert saved(step_line(2), begun, "step_num: 9", whole) is None  # not of the step that was made
    assert saved(begun, "step_num: 2", whole) is None  # no step was seen
    assert saved(step_line(3), begun, "step_num: 3", whole) is None  # of another one
    assert saved("initial step: 4", step_line(2, epoch=2), begun, "step_num: 6", whole) == 6


def test_a_save_in_sink_mode_is_counted_in_sinks() -> None:
    """Sinks of two steps, and epochs of four: MindSpore's third epoch of two is what ends with step 6."""
    sunk = re.sub(r"loss:\[[\d.]+/([\d.]+)\]", r"loss: \1", step_line(2, epoch=2))
    whole = "Finish saving ckpt of epoch {} step 2 using 0.146 seconds"
    for size in ([], ["Will be Training epochs:2, sink_size:2"]):
        for epoch, step in ((3, 6), (2, None)):
            lines = [*size, sunk, "......Saving ckpt......", "step_num: 6", whole.format(epoch)]
            found = read(list(map(header, lines)))
            assert [line["saved"] for line in found if "saved" in line] == [step] * bool(step)


def test_checkpoint_2_0_is_whole_when_it_says_what_it_cost() -> None:
    lines = [
        step_line(2),
        "....... Start to save checkpoint as new format .......",
        "At current iteration '2', the weight will be saved in: '/x/iteration_00000002'.",
        "successfully sync saved checkpoint from step '2' to '/x'.",
        "Save checkpoint cost time: 1.250s.",
        step_line(3),
    ]
    found = read(list(map(header, lines)))
    assert phases(found) == ["step", "save", "step"]
    assert [(line["saved"], line["write_s"]) for line in found if "saved" in line] == [(2, 1.25)]


def test_an_asynchronous_save_is_whole_when_it_is_and_holds_nobody_up() -> None:
    lines = [
        *(step_line(2), "......Saving ckpt......", "step_num: 2", step_line(3)),
        *("Finish saving ckpt of epoch 1 step 2 using 9.500 seconds", step_line(4)),
    ]
    found = read(list(map(header, lines)))
    (whole,) = [line for line in found if "saved" in line]
    assert (whole["saved"], whole["write_s"], "stall_s" in whole) == (2, 9.5, False)
    assert [line["step"] for line in steps(found)] == [2, 3, 4]


def test_a_save_of_which_no_end_is_told_has_ended_when_the_next_step_began() -> None:
    lines = [
        header(step_line(1), clock="2025-11-26 11:12:10,000"),
        header("......Saving ckpt......", clock="2025-11-26 11:12:10,100"),
        header(step_line(2, ms=2000), clock="2025-11-26 11:12:25,000"),
    ]
    found = read(lines, now=START + 20)
    times = [(line["phase"], line["time"] - START) for line in found if "phase" in line]
    assert times[1:] == [("save", pytest.approx(-1.9)), ("step", pytest.approx(11.0))]


# What is no such line, or not quite.


def test_colours_and_carriage_returns() -> None:
    line = header(step_line())
    for text in (
        f"\x1b[32m{line}\x1b[0m",
        f" 10%|#   |\r 20%|##  |\r{line}",
        f"{line}\r",
        line.replace(" - INFO - ", " - \x1b[1;34mINFO\x1b[0m - "),
    ):
        assert [found["step"] for found in steps(read([text]))] == [2]


@pytest.mark.parametrize(
    "line",
    [
        step_line(),  # printed, not logged
        f"INFO - {step_line()}",
        f"last line: {header(step_line())}",
        f"'{header(step_line())}'",
        header(step_line()).replace("[mindformers/core/callback/callback.py:747]", "[/home/u/train.py:3]"),
        header(step_line()) + " ...",
        header(step_line(), level="DEBUG"),
        header("my " + step_line()),
        header(step_line(5)),  # the fifth of four
        header(step_line(0)),
        header("Epoch:[  1/  2], step:[    2/    4] local_norm: 0.5"),  # another callback of MindFormers
        header("{ Epoch:[  1/  2], step:[    2/    4], loss:[8.1/8.1], samples: 4 }"),  # a form to come
        header(step_line().replace("8.125000/", "8.125e3/")),
        header(step_line(2, loss="８.125")),  # digits of another script
        "x" * 10_000 + header(step_line()),
    ],
)
def test_what_looks_alike_is_no_step(line: str) -> None:
    assert read([line]) == []


def test_a_line_that_is_cut_anywhere_is_the_same_step_or_none() -> None:
    """Where the rest is missing numbers that were read are right: of those of the norm one may be shorter."""
    line = header(step_line())
    whole = steps(read([line]))[0]
    for end in range(len(line)):
        for found in steps(read([line[:end]])):
            for name in ("step", "total_steps", "loss", "lr", "time", "step_time_s"):
                assert found[name] == whole[name]


def test_two_threads_that_write_into_one_line_make_no_wrong_number() -> None:
    line = header(step_line(2))
    whole = steps(read([line]))[0]
    for place in range(0, len(line) - 40, 3):
        for other in (
            header(step_line(3)),
            "loading shard 7 of 12",
            "[WARNING] ME(7:1,Main):2025-11-26 slow",
        ):
            mixed = line[:place] + other + line[place:]
            for found in steps(read([mixed])):
                assert found["step"] == whole["step"] and found["loss"] == whole["loss"], mixed
            between = line[:place] + "\n" + other + "\n" + line[place:]
            for found in steps(read(between.split("\n"))):
                assert (found["step"], found.get("loss")) in {(2, 8.125), (3, 8.125)}


def test_any_bytes_raise_nothing() -> None:
    dice = random.Random(7)
    texts = [text for version in LINES.values() for lines in version.values() for text in lines]
    for _ in range(3000):
        line = list(dice.choice(texts))
        for _ in range(dice.randrange(1, 6)):
            line[dice.randrange(len(line))] = chr(
                dice.choice((0, 9, 13, 27, 48, 91, 93, 123, 125, 0x660, 0xFFFD))
            )
        for found in read(["".join(line)]):
            said_in(found)
            json.dumps(found)


def test_an_unknown_form_still_tells_phases() -> None:
    lines = [
        "Model Compiling, Please Wait a Moment...........",
        "{ iteration 2 of 20: loss=8.1 }",
        "......Saving ckpt......",
    ]
    found = read(list(map(header, lines)))
    assert phases(found) == ["compile", "save"] and steps(found) == []


def test_a_step_that_is_said_twice_counts_once() -> None:
    line = header(step_line(2))
    assert [found["step"] for found in steps(read([line, line, header(step_line(3))]))] == [2, 3]


def test_the_rate_is_of_its_own_step() -> None:
    bar = LINES[NEW]["plain"][1]  # of step 1 of 8
    assert "samples_per_s" in steps(read([header(step_line(1)), bar]))[0]
    assert "samples_per_s" not in steps(read([header(step_line(2)), bar]))[0]
    parser = MindFormersLines(0, 2, START - 60.0)
    assert len(steps(parser.feed([header(step_line(1))], START + 2))) == 1  # it is told at once
    assert parser.feed([bar], START + 3) == []


def test_a_rate_of_too_few_digits_is_none() -> None:
    slow = re.sub(r"6\.37 ", "0.04 ", LINES["1.0.0"]["plain"][1])
    assert slow != LINES["1.0.0"]["plain"][1]
    assert "samples_per_s" not in steps(read([header(step_line(1)), slow]))[0]


# Clocks.


@pytest.mark.parametrize("hours", [-8, -3.5, 0, 5.75, 8, 14])
def test_the_zone_of_a_worker_need_not_be_ours(hours: float) -> None:
    """In a container clocks are often UTC's; lines are read within a second."""
    parser = MindFormersLines(0, 1, START)
    for number in range(1, 4):
        now = START + 100 * number
        (line,) = steps(parser.feed([_at(now - 0.5 + 3600 * hours, step_line(number))], now))
        assert line["time"] == pytest.approx(now - 0.5, abs=1e-2)


def test_an_hour_that_comes_twice() -> None:
    parser = MindFormersLines(0, 1, START)
    times = []
    for number, offset in enumerate((7200, 7200, 3600, 3600), start=1):
        now = START + 60 * number
        times += steps(parser.feed([_at(now - 1 + offset, step_line(number))], now))
    assert [line["time"] - START for line in times] == [
        pytest.approx(60 * number - 1) for number in range(1, 5)
    ]


@pytest.mark.parametrize(
    "clock",
    [
        "2025年11月26日 11時12分13秒",
        "26/11/2025 11:12:13",
        "mer. 26 nov. 2025 11:12:13",
        "11:12:13",
        "٢٠٢٥-١١-٢٦ ١١:١٢:١٣,٠٠٠",
    ],
)
def test_a_clock_of_another_form_is_that_of_who_reads(clock: str) -> None:
    (line,) = steps(read([header(step_line(), clock=clock)]))
    assert (line["step"], line["time"]) == (2, START + 2)


def test_a_clock_that_is_set_gives_no_time_before_or_after() -> None:
    parser = MindFormersLines(0, 1, START)
    parser.feed([_at(START + 10, step_line(1))], START + 10)
    (line,) = steps(parser.feed([_at(START - 86_000, step_line(2))], START + 20))
    assert START + 10 <= line["time"] <= START + 22


def test_which_lines_are_mindformers() -> None:
    assert is_told_by_mindformers(header("anything"))
    assert not is_told_by_mindformers(header("anything", level="WARNING"))
    assert not is_told_by_mindformers("step 3 of 4")


def test_that_evaluations_come_is_announced() -> None:
    (line,) = read([header(".........Build Evaluate in Training Callback..........")])
    assert said_in(line).can == (EVALUATES,) and not said_in(line).is_progress


def test_an_evaluation_that_is_told_is_a_phase() -> None:
    lines = [
        step_line(2),
        "Starting Evaluate Model",
        "Eval result: {'x': 1}, eval time is 7.0 s.",
        step_line(3),
    ]
    found = read(list(map(header, lines)))
    assert phases(found) == [str(Phase.STEP), str(Phase.EVALUATE), str(Phase.STEP)]


def _at(moment: float, text: str) -> str:
    clock = datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S,%f")
    return header(text, clock=clock[:-3])
