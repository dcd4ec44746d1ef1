"""MindFormers' own log lines, of 1.0.0 to 2.1.0, as the lines of metrics that the bundled model writes.

A line counts only as a whole and with the header of MindFormers' logger, which names its own file; what is
unlike that says nothing. Numbers are as printed: what cannot be read as one is left out.

Source of the forms: mindformers/core/callback/callback.py (`MFLossMonitor`, `CheckpointMonitor`),
pynative/callback/loss_callback.py, checkpoint/checkpoint.py, trainer/base_trainer.py and tools/logger.py of
the wheels; docs of each form stand beside its pattern. Pure: lines and times go in, objects come out.
"""

from __future__ import annotations

import calendar
import math
import re
import time
from typing import Any, Dict, Iterable, List, Match, Optional, Tuple

from orchestrator.agent.logged_saves import Saves, is_save_begun
from orchestrator.core.records import Phase

__all__ = ["EVALUATES", "LOGGED", "MindFormersLines", "is_told_by_mindformers"]

LOGGED = b"mindformers/"
"""What is in each line of MindFormers' logger."""

EVALUATES = "evaluate"
"""What a worker announces (`can`) that evaluates while it trains, and does not tell when it begins to."""

_COLOURS = re.compile(r"\x1b\[[0-9;?]{0,16}[A-Za-z]")
# Loggers' times have no zone. A clock in another form (`datefmt`) is none that we read; a line in whose
# beginning there is more than one is somebody's quotation of a line.
_CLOCK = r"20\d\d-[01]\d-[0-3]\d [0-2]\d:[0-5]\d:[0-6]\d,\d{3}"
_WHERE = r"\[mindformers/[\w./-]{1,200}\.py:\d{1,7}\]"
_HEADER = re.compile(
    # Standard output: `<time> - mindformers<folder of logs>[<file>:<line>] - INFO - `
    rf"(?:({_CLOCK})|(?!.{{0,60}}{_CLOCK})[^\[\]{{}}]{{0,60}}?)"
    rf" - mindformers[^\[\]]{{0,4096}}{_WHERE} - ([A-Z]{{4,8}}) - |"
    # info.log: `[INFO] <time> [<file>:<line>] <function>: `
    rf"\[([A-Z]{{4,8}})\] ({_CLOCK}) {_WHERE} \w{{1,80}}: ",
    re.ASCII,
)
_LONGEST = 8192

_NUMBER = r" *-?(?:\d{1,40}\.\d{1,12}|nan|inf)"
# A number, or some in an array, `None`, `unavailable`.
_VALUE = r"\[{0,2} *[\w.+-]{1,40}(?: +[\w.+-]{1,40}){0,64} *\]{0,2}"
_STEP = re.compile(
    r"\{ Epoch:\[ *(?P<epoch>\d{1,9})/ *(?P<epochs>\d{1,9})\], "
    r"step:\[ *(?P<step>\d{1,12})/ *(?P<each>\d{1,12})\], "
    # Without sink mode `[this/average of the epoch]`; to 1.6 three digits, later six.
    rf"loss:(?:\[(?P<loss>{_NUMBER})/(?P<mean>{_NUMBER})\]| (?P<sunk>{_NUMBER})), "
    rf"(?P<parts>(?:[a-z_]{{1,40}}: {_NUMBER}, ){{0,8}})"  # from 1.7, `print_separate_loss`
    rf"per_step_time: (?P<ms>\d{{1,12}})ms, (?:lr: (?P<lr>{_VALUE}), )?"
    rf"overflow cond: (?P<overflow>{_VALUE}), loss_scale: (?P<scale>{_VALUE})"
    rf"(?:, global_norm: (?P<norm>{_VALUE}))?"  # from 1.3.0
    rf"(?:, train_throughput_per_npu: (?P<tflops>{_NUMBER})T)?",  # from 1.6.0
    re.ASCII,
)
# `mindformers.pynative`, from 1.9.0; from 2.0.0 stages before the last say `N/A` for the loss.
_PYNATIVE = re.compile(
    r"\{ step:\[ *(?P<step>\d{1,12})/ *(?P<each>\d{1,12})\], "
    r"(?P<samples>consumed_samples: \w{1,20}, global_batch_size: \w{1,20}, )?"  # from 2.1.0
    rf"loss: (?:(?P<sunk>{_NUMBER})|N/A \([^()]{{1,120}}\)), "
    r"per_step_time: *(?P<ms>\d{1,12})ms(?P<parts>(?:, \w{1,40}: *[^,{} ]{1,40}){0,16}) \}",
    re.ASCII,
)
_BAR = re.compile(
    rf" *(\d{{1,4}}\.\d)% \|[^|]{{0,200}}\| (?P<rate>{_NUMBER}) samples/s/p  [^{{}}]{{1,40}} \}}", re.ASCII
)
_THROUGHPUT = re.compile(r".*, throughput: *(\d{1,40}\.\d\d)T(?:,.*)?", re.ASCII)
_LEAST_OF_RATE = 100
_STAGES = re.compile(r"pipeline stages: (\d{1,6}) > 1, the loss on the last card is valid\.?", re.ASCII)
_ZERO_BUBBLE = "When zero_bubble_v is enabled, loss is valid only on rank 0"
_INITIAL = re.compile(r"initial step: (\d{1,12})", re.ASCII)
_SINK = re.compile(r"Will be Training epochs:\d{1,9}, sink_size:(-1|\d{1,9})", re.ASCII)

_PHASES: Dict[str, Phase] = {
    "Build Dataset For Train": Phase.INIT,
    "Build Net For Train": Phase.INIT,
    "Build Optimizer For Train": Phase.INIT,
    "Build Running Wrapper From Config For Train": Phase.INIT,
    "Build Callbacks For Train": Phase.INIT,
    "Starting Init Train Model": Phase.INIT,
    "Start load checkpoint from checkpoint": Phase.INIT,
    "Start load checkpoint from ckpt": Phase.INIT,
    "Start load checkpoint from safetensors": Phase.INIT,
    "Start Load Checkpoint": Phase.INIT,
    "Building model from config": Phase.INIT,
    "Building dataset from config": Phase.INIT,
    "Building optimizer and lr_scheduler from config": Phase.INIT,
    "Start training loop": Phase.INIT,
    "Building model": Phase.COMPILE,
    "Compiling model": Phase.COMPILE,
    "Model Compiling, Please Wait a Moment": Phase.COMPILE,
    "Starting Evaluate Model": Phase.EVALUATE,
}
_EVALUATES = "Build Evaluate in Training Callback"
_EVALUATED = re.compile(r"Evaluate Over!|Eval result: .*")
# A first step holds the compilation, and its own length says nothing of when that ended.
_ENDS_WITH_STEP = (Phase.SAVE, Phase.EVALUATE)


def is_told_by_mindformers(line: str) -> bool:
    """Whether it is a line of MindFormers' logger of the level that tells what a run does."""
    told = _told(line)
    return told is not None and told[0] == "INFO"


class MindFormersLines:
    """Of one worker, whose process began at `started` (seconds, the host's clock).

    `tokens` are those of a sample, None: not known, then no rate of tokens is told.
    """

    def __init__(self, rank: int, world: int, started: float, tokens: Optional[int] = None) -> None:
        self._rank, self._world, self._tokens = rank, world, tokens
        self._clock = _Clock(started)
        self._phase: Optional[Phase] = None
        self._phase_since = started
        self._has_loss = True
        self._saves = Saves()
        self._last: Dict[str, Any] = {}
        # A step whose second line, with its rate, may still come.
        self._held: Optional[Dict[str, Any]] = None
        self._found: List[Dict[str, Any]] = []

    def feed(self, lines: Iterable[str], now: float) -> List[Dict[str, Any]]:
        """What lines that were read at `now` say, in the form of a worker's metrics.

        They have come since the last call, without their ends, none in parts.
        """
        for line in lines:
            for part in line.split("\r"):
                told = _told(part)
                if told is not None:
                    self._take(*told, now)
        self._release()
        found, self._found = self._found, []
        return found

    def _take(self, level: str, clock: Optional[str], said: str, now: float) -> None:
        if level == "WARNING":
            self._mind_stages(said)
        if level != "INFO":
            return
        bar = _BAR.fullmatch(said)
        if bar is not None:
            self._add_rate(bar)
            return
        match = _STEP.fullmatch(said) or _PYNATIVE.fullmatch(said)
        moment = self._clock.read(clock, now)
        if match is not None:
            self._take_step(match, moment)
        elif "{" not in said[:2]:
            self._take_phase(said, moment)

    # Steps.

    def _take_step(self, match: Match[str], moment: float) -> None:
        found = match.groupdict()
        each, made = int(found["each"]), int(found["step"])
        if not 1 <= made <= each:
            return
        total = each
        if "epoch" in found:
            epoch = int(found["epoch"])
            if epoch < 1:
                return
            made, total = made + (epoch - 1) * each, each * int(found["epochs"])
        if made == self._last.get("step"):
            return  # said twice, by two handlers
        is_sunk = found.get("mean") is None
        seconds = int(found["ms"]) / 1e3
        line = {**self._numbers(found), "time": round(moment, 3)}
        if seconds > 0:
            line["step_time_s"] = seconds
        head = {"step": made, "total_steps": total} if made <= total else {"step": made}
        self._release()
        gap = self._saves.note_step(made, each, is_sunk="epoch" in found and is_sunk)
        at_once = (self._saves.sink or gap) if is_sunk and "epoch" in found else 1
        ended = moment - seconds * max(1, at_once)
        began = max(self._phase_since, ended) if self._phase in _ENDS_WITH_STEP else moment
        self._begin(Phase.STEP, min(began, moment))
        self._last = self._held = {**head, **line}

    def _numbers(self, found: Dict[str, Optional[str]]) -> Dict[str, Any]:
        loss = found.get("loss") or found["sunk"]
        values: Dict[str, Any] = {}
        if self._has_loss:
            values = {"loss": _number(loss), "mean_loss": _number(found.get("mean"))}
            values.update(_parts_of(found["parts"] or "", "_loss"))
        if "epoch" in found:
            values.update(lr=_number(found["lr"]), grad_norm=_number(found["norm"]))
            values.update(loss_scale=_number(found["scale"]), tflops_per_device=_exact(found["tflops"]))
            if _is_true(found["overflow"] or ""):
                values["skipped"] = True
        else:
            more = _parts_of(found["parts"] or "", "")
            values.update(lr=more.get("lr"), grad_norm=more.get("grad_norm"))
            # Before 2.1.0 its throughput is reckoned in another unit than it is said in.
            if found["samples"]:
                values["tflops_per_device"] = _exact(_THROUGHPUT.sub(r"\1", found["parts"] or ""))
        # A loss and a norm that are none are to be seen; of others that means that nobody knows.
        may_be_nan = ("loss", "mean_loss", "grad_norm")
        return {
            name: value
            for name, value in values.items()
            if value is not None and (name in may_be_nan or math.isfinite(value))
        }

    def _add_rate(self, bar: Match[str]) -> None:
        """The second line of a step: how far it is, and its samples a second for each device."""
        held, rate = self._held, _exact(bar["rate"])
        if held is None or "total_steps" not in held or rate is None:
            return
        if abs(float(bar[1]) - 100.0 * held["step"] / held["total_steps"]) > 0.11:
            return  # of another step
        held["samples_per_s"] = round(rate * self._world, 5)
        if self._tokens is not None:
            held["tokens_per_s"] = round(rate * self._world * self._tokens, 1)
        self._release()

    def _release(self) -> None:
        if self._held is not None:
            self._found.append(self._held)
            self._held = None

    def _mind_stages(self, said: str) -> None:
        """In a pipeline stages before the last print a loss that is none."""
        stages = _STAGES.fullmatch(said)
        if said.startswith(_ZERO_BUBBLE):
            self._has_loss = self._rank == 0
        elif stages is not None:
            count = int(stages[1])
            is_even = count > 0 and self._world % count == 0
            self._has_loss = is_even and self._rank // (self._world // count) == count - 1

    # Phases.

    def _take_phase(self, said: str, moment: float) -> None:
        words = said.strip(" .")
        phase = _PHASES.get(words)
        if phase is not None:
            self._begin(phase, moment)
        elif is_save_begun(words):
            self._saves.begin(moment)
            self._begin(Phase.SAVE, moment)
        elif words == _EVALUATES:
            self._release()
            self._found.append({"can": [EVALUATES], "time": round(moment, 3)})
        elif self._phase is Phase.EVALUATE and _EVALUATED.fullmatch(words):
            self._begin(Phase.STEP if self._last else Phase.INIT, moment)
        else:
            initial = _INITIAL.fullmatch(words)
            if initial is not None:
                self._saves.initial = int(initial[1])
            sink = _SINK.fullmatch(words)
            if sink is not None:
                self._saves.sink = max(0, int(sink[1]))
            self._mind_save(words, moment)

    def _mind_save(self, words: str, moment: float) -> None:
        whole = self._saves.take(words)
        if whole is None:
            return
        line: Dict[str, Any] = {"phase": str(Phase.STEP)}
        if whole.step is not None:
            line["saved"] = whole.step
            if self._phase is Phase.SAVE:
                line["stall_s"] = round(max(0.0, moment - whole.began), 3)
            if whole.seconds is not None:
                line["write_s"] = whole.seconds
        elif self._phase is not Phase.SAVE:
            return
        self._release()
        self._phase, self._phase_since = Phase.STEP, moment
        self._found.append({**line, "time": round(moment, 3)})

    def _begin(self, phase: Phase, moment: float) -> None:
        if phase is self._phase:
            return
        self._release()
        self._phase, self._phase_since = phase, moment
        self._found.append({"phase": str(phase), "time": round(moment, 3)})


class _Clock:
    """The clock of a worker, whose zone need not be ours, and which may be set."""

    def __init__(self, started: float) -> None:
        self._earliest = started - 2.0
        self._zone: Optional[float] = None

    def read(self, text: Optional[str], now: float) -> float:
        """When a line was written that was read at `now`; that, where its own time cannot be.

        Times go forward: at the end of summer an hour comes twice.
        """
        if text is None:
            return self._kept(now)
        # `time.strptime` takes as long as all the rest.
        places = ((0, 4), (5, 7), (8, 10), (11, 13), (14, 16), (17, 19))
        year, month, day, hour, minute, second = (int(text[first:last]) for first, last in places)
        fields = (year, month, day, hour, minute, second, 0, 0, -1)
        try:
            seconds, local = calendar.timegm(fields), time.mktime(fields)
        except (ValueError, OverflowError):
            return self._kept(now)
        written = seconds + int(text[20:]) / 1e3
        # What was just read was just written: the rest is the zone, in quarters of an hour.
        guess = round((written - now) / 900.0) * 900.0
        ours = seconds - local
        for zone, oldest in ((self._zone, None), (ours, None), (guess, now - 30.0)):
            if zone is None:
                continue
            moment = written - zone
            if max(self._earliest, oldest or 0.0) <= moment <= now + 2.0:
                self._zone = zone
                return self._kept(moment)
        return self._kept(now)

    def _kept(self, moment: float) -> float:
        self._earliest = max(self._earliest, moment - 5.0)
        return moment


def _told(line: str) -> Optional[Tuple[str, Optional[str], str]]:
    """Level, clock and text of a line of MindFormers' logger; None of any other."""
    if LOGGED.decode() not in line or len(line) > _LONGEST:
        return None
    line = _COLOURS.sub("", line)
    header = _HEADER.match(line)
    if header is None:
        return None
    return header[2] or header[3], header[1] or header[4], line[header.end() :].rstrip()


def _number(text: Optional[str]) -> Optional[float]:
    """What NumPy prints of one number, in brackets or not; None of anything else."""
    if text is None:
        return None
    try:
        return float(text.strip().lstrip("[").rstrip("]").strip())
    except ValueError:
        return None


def _exact(text: Optional[str]) -> Optional[float]:
    """A rate of which rounding took less than a hundredth: of 0.01 it may be half."""
    value = _number(text)
    if value is None or text is None or not math.isfinite(value):
        return None
    return value if value * 10 ** len(text.partition(".")[2]) >= _LEAST_OF_RATE else None


def _parts_of(text: str, ending: str) -> Dict[str, Optional[float]]:
    """The values of `name: number` whose name ends so. `NaN` in this spelling is said where there is none."""
    pairs = (part.split(":", 1) for part in text.split(", ") if ":" in part)
    found = {name.strip(): value.strip() for name, value in pairs}
    return {
        name: None if value == "NaN" else _number(value.rstrip("T"))
        for name, value in found.items()
        if name.endswith(ending)
    }


def _is_true(text: str) -> bool:
    return text.strip(" []") == "True"
