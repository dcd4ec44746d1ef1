"""Saves behind the steps: the same files as before them, one at a time, and nothing that is not whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.phases import Phase, Phases
from model.training.saver import Saver, ShardFolder
from model.weights.checkpoint import Progress, steps_of, write_shard
from model.weights.snapshot import Snapshot
from orchestrator.checkpoint.files.tensor_files import read_ckpt
from orchestrator.checkpoint.files.tensor_types import Tensor
from orchestrator.core.errors import CheckpointError
from orchestrator.formats.shard_sum import read_sum, sum_of
from tests.model.support.cluster import ROOT, environment

pytestmark = pytest.mark.mindspore

NAMES = ("a", "b", "adam_m.a", "adam_v.a")
Contents = list[tuple[str, Tensor]]


class Weights:
    """What is trained, as arrays that change in place."""

    def __init__(self) -> None:
        random = np.random.default_rng(7)
        self.arrays = {name: random.standard_normal((33, 5), np.float32) for name in NAMES}

    @property
    def sizes(self) -> list[int]:
        return [array.nbytes for array in self.arrays.values()]

    def step(self) -> None:
        for array in self.arrays.values():
            array += 1.0

    def contents(self, step: int) -> Iterator[tuple[str, Tensor]]:
        for name, array in self.arrays.items():
            yield name, Tensor.of(array)
        yield "step_num", Tensor.of(np.array(step, np.int32))


class Gate:
    """Writes a shard when it is let, and may fail instead."""

    def __init__(self) -> None:
        self.began, self.open = threading.Semaphore(0), threading.Semaphore(0)
        self.error: Exception | None = None

    def __call__(
        self,
        folder: Path,
        prefix: str,
        rank: int,
        contents: Iterable[tuple[str, Tensor]],
        progress: Progress,
        keep: int,
        **more: Any,
    ) -> Path:
        self.began.release()
        assert self.open.acquire(timeout=60)
        if self.error is not None:
            raise self.error
        return write_shard(folder, prefix, rank, contents, progress, keep, **more)


def saver(
    home: Path,
    snapshot: Snapshot | None,
    *,
    keep: int = 5,
    write: Callable[..., Path] = write_shard,
    clock: Callable[[], float] | None = None,
) -> Saver:
    phases = Phases(home, 0)
    phases.enter(Phase.STEP)
    files = ShardFolder(home / "checkpoint", "demo", 0, keep)
    more = {} if clock is None else {"clock": clock}
    return Saver(files, phases, snapshot, write=write, **more)


def told(home: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (home / "metrics/rank_0.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def shards(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((home / "checkpoint/rank_0").iterdir())}


def test_the_files_are_bit_for_bit_those_of_a_save_that_is_waited_for(tmp_path: Path) -> None:
    found = []
    for name in ("waits", "behind"):
        weights = Weights()
        snapshot = Snapshot(weights.sizes) if name == "behind" else None
        with saver(tmp_path / name, snapshot) as made:
            for step in (1, 2, 3):
                weights.step()
                made.save(weights.contents(step), Progress(1, step), is_last=step == 3)
        found.append(shards(tmp_path / name))
    assert found[0] == found[1] and len(found[0]) == 6  # with their checksums


def test_a_save_holds_what_was_when_it_began(tmp_path: Path) -> None:
    weights, gate = Weights(), Gate()
    with saver(tmp_path, Snapshot(weights.sizes), write=gate) as made:
        made.save(weights.contents(1), Progress(1, 1), is_last=False)
        then = weights.arrays["a"].copy()
        weights.step()  # while it is being written
        gate.open.release()
        made.wait()
    (shard,) = (tmp_path / "checkpoint/rank_0").glob("*.ckpt")
    assert np.array_equal(read_ckpt(shard)["a"].array(), then)
    assert read_sum(shard) == sum_of(shard)


def test_it_is_said_to_be_saved_only_when_it_is_whole(tmp_path: Path) -> None:
    weights, gate = Weights(), Gate()
    now = [100.0]
    with saver(tmp_path, Snapshot(weights.sizes), write=gate, clock=lambda: now[0]) as made:
        made.wait()  # for its memory

        def contents() -> Iterator[tuple[str, Tensor]]:
            yield from weights.contents(9)
            now[0] += 0.5

        made.save(contents(), Progress(1, 9), is_last=False)
        assert gate.began.acquire(timeout=60)
        assert told(tmp_path)[1:] == [{"phase": "save", "step": 9}, {"phase": "step"}]
        assert made.last is None and made.stall == 0.5
        assert steps_of(tmp_path / "checkpoint", 0) == []
        now[0] += 7.0
        gate.open.release()
    assert told(tmp_path)[-1] == {"phase": "step", "saved": 9, "stall_s": 0.5, "write_s": 7.5}
    assert made.last is not None and made.last.step == 9


def test_a_second_save_waits_for_the_first(tmp_path: Path) -> None:
    weights, gate = Weights(), Gate()
    with saver(tmp_path, Snapshot(weights.sizes), write=gate) as made:
        made.save(weights.contents(1), Progress(1, 1), is_last=False)
        assert gate.began.acquire(timeout=60)
        read = threading.Event()

        def second() -> Iterator[tuple[str, Tensor]]:
            read.set()
            yield from weights.contents(2)

        thread = threading.Thread(target=lambda: made.save(second(), Progress(1, 2), is_last=True))
        thread.start()
        assert not read.wait(0.2), "the buffer is still being read"
        gate.open.release(2)
        thread.join(60)
        assert not thread.is_alive()
    assert steps_of(tmp_path / "checkpoint", 0) == [1, 2]
    words = [(line["phase"], line.get("step"), line.get("saved")) for line in told(tmp_path)]
    # What became whole while the second waited is no end of the phase that it is in.
    begun = [("save", 1, None), ("step", None, None), ("save", 2, None)]
    assert words[1:] == [*begun, ("save", None, 1), ("step", None, 2)]


def test_an_end_waits_for_what_is_being_written(tmp_path: Path) -> None:
    weights, gate = Weights(), Gate()
    opener = threading.Timer(0.2, gate.open.release)
    with pytest.raises(KeyError), saver(tmp_path, Snapshot(weights.sizes), write=gate) as made:
        made.save(weights.contents(4), Progress(1, 4), is_last=False)
        opener.start()
        raise KeyError("the training failed")
    assert steps_of(tmp_path / "checkpoint", 0) == [4]


@pytest.mark.parametrize("asked", ["check", "save", "end"])
def test_what_cannot_be_written_ends_the_training(tmp_path: Path, asked: str) -> None:
    weights, gate = Weights(), Gate()
    gate.error = CheckpointError("cannot be written: No space left on device", where="x")
    gate.open.release()
    with pytest.raises(CheckpointError, match="No space left"), \
            saver(tmp_path, Snapshot(weights.sizes), write=gate) as made:  # fmt: skip
        made.save(weights.contents(1), Progress(1, 1), is_last=False)
        if asked == "check":
            while True:  # as after every step
                made.check()
        if asked == "save":
            made.save(weights.contents(2), Progress(1, 2), is_last=False)
    assert "saved" not in json.dumps(told(tmp_path)) and made.last is None


def test_a_failure_of_the_training_is_not_hidden_by_one_of_the_write(tmp_path: Path) -> None:
    weights, gate = Weights(), Gate()
    gate.error = CheckpointError("cannot be written", where="x")
    gate.open.release()
    with pytest.raises(KeyError), saver(tmp_path, Snapshot(weights.sizes), write=gate) as made:
        made.save(weights.contents(1), Progress(1, 1), is_last=False)
        raise KeyError("the training failed")


def test_where_others_may_still_write_one_more_shard_stays(tmp_path: Path) -> None:
    """A rank that has written a step knows that all have written the last but one before it, and no more."""
    weights = Weights()
    for name, snapshot, left in (("waits", None, [2, 3]), ("behind", Snapshot(weights.sizes), [1, 2, 3])):
        with saver(tmp_path / name, snapshot, keep=1) as made:
            for step in (1, 2, 3):
                made.save(weights.contents(step), Progress(1, step), is_last=False)
        assert steps_of(tmp_path / name / "checkpoint", 0) == left


_KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from model.phases import Phases
from model.training.saver import Saver, ShardFolder
from model.weights.checkpoint import Progress, write_shard
from model.weights.snapshot import Snapshot
from orchestrator.checkpoint.files.tensor_types import Tensor

def write(folder, prefix, rank, contents, progress, *rest, **more):
    def halves():
        for number, each in enumerate(contents):
            if progress.step == 2 and number == 2:
                os.kill(os.getpid(), signal.SIGKILL)  # in the middle of the file
            yield each
    return write_shard(folder, prefix, rank, halves(), progress, *rest, **more)

tensors = [(name, Tensor.of(np.full(1 << 20, 3.0, np.float32))) for name in "abc"]
home = Path(sys.argv[1])
with Saver(ShardFolder(home / "checkpoint", "demo", 0, 1), Phases(home, 0),
           Snapshot([tensor.nbytes for _, tensor in tensors]), write=write) as saver:
    for step in (1, 2):
        saver.save(tensors, Progress(1, step), is_last=True)
"""


def test_killed_in_the_write_the_one_before_is_whole_and_the_half_goes_with_the_next(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path)],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        timeout=300,
        text=True,
    )
    assert done.returncode == -9, done.stderr[-2000:]
    home = tmp_path / "checkpoint/rank_0"
    assert steps_of(tmp_path / "checkpoint", 0) == [1]
    shard = home / "demo_rank_0-1_1.ckpt"
    assert read_sum(shard) == sum_of(shard) and len(read_ckpt(shard)) == 3
    assert [line["saved"] for line in told(tmp_path) if "saved" in line] == [1]
    assert len([name for name in os.listdir(home) if name.startswith(".")]) == 1
    weights = Weights()
    with saver(tmp_path, Snapshot(weights.sizes)) as made:
        made.save(weights.contents(3), Progress(1, 3), is_last=True)
    assert not [name for name in os.listdir(home) if name.startswith(".")]
    assert steps_of(tmp_path / "checkpoint", 0) == [1, 3]
