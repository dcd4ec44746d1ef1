"""Collections that broke off: what is kept, what is brought again, who may go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest

from orchestrator.checkpoint.files.tensor_files import read_ckpt
from orchestrator.checkpoint.host_files import LocalFiles
from orchestrator.checkpoint.journal import Journal
from orchestrator.core.errors import CheckpointError, HostsFailed, Interrupted, TransportError
from tests.checkpoint.support import bloom, save_run
from tests.transfer.test_collect import Counting, check, collected
from tests.transfer.test_forms import MODEL, saved

SEGMENT = 64


class Breaking(LocalFiles):
    """The hosts in `down` go away after so many segments."""

    def __init__(self, folders, down, after=0):
        super().__init__(folders)
        self.down, self.left = down, after

    def read(self, host, segments):
        for data, _ in super().read(host, segments):
            if host in self.down:
                self.left -= 1
                if self.left < 0:
                    raise TransportError("connection lost", where=host)
            yield data, zlib.crc32(data)


def broken(run, output, after=3, **options):
    """A collection that broke off; returns the bytes that it brought."""
    with pytest.raises((TransportError, HostsFailed)):
        source = Breaking(run.folders, set(run.folders), after)
        collected(run, output, source, segment_bytes=SEGMENT, **options)
    journal = Journal(output)
    journal.close()
    return sum(done.nbytes for done in journal.done.values())


def test_no_byte_of_a_finished_segment_is_moved_twice(tmp_path):
    run = save_run(tmp_path, [bloom(1, 4)])
    output = tmp_path / "out" / "a.ckpt"
    kept = broken(run, output)
    assert kept and not output.exists()
    source, seen = Counting(run.folders), []
    result = collected(
        run, output, source, segment_bytes=SEGMENT, progress=lambda done, total: seen.append(done)
    )
    assert (result.resumed, source.nbytes) == (kept, result.plan.nbytes - kept)
    assert seen[0] == kept
    check(run, read_ckpt(output))
    assert sorted(os.listdir(output.parent)) == ["a.ckpt", "a.ckpt.manifest.json"]


@pytest.mark.parametrize(
    "options", [{"dtype": "BFloat16"}, {"format": "safetensors"}, {"with_optimizer": True}]
)
def test_another_form_of_output_begins_anew(tmp_path, options):
    run = save_run(tmp_path, [bloom(1, 4)])
    broken(run, tmp_path / "a.ckpt")
    assert collected(run, tmp_path / "a.ckpt", segment_bytes=SEGMENT, **options).resumed == 0


def test_what_the_disk_has_lost_is_brought_again(tmp_path):
    run = save_run(tmp_path, [bloom(1, 4)])
    kept = broken(run, tmp_path / "a.ckpt", after=6)
    part = tmp_path / ".a.ckpt.part"
    part.write_bytes(bytes(part.stat().st_size))
    result = collected(run, tmp_path / "a.ckpt", segment_bytes=SEGMENT)
    assert result.resumed < kept
    check(run, read_ckpt(tmp_path / "a.ckpt"))


def test_a_shard_that_was_written_again_is_read_again(tmp_path):
    run = save_run(tmp_path, [bloom(1, 1)], hosts=("a",))
    broken(run, tmp_path / "a.ckpt")
    os.utime(run.shard(0), ns=(1, 1))
    assert collected(run, tmp_path / "a.ckpt", segment_bytes=SEGMENT).resumed == 0
    check(run, read_ckpt(tmp_path / "a.ckpt"))


def test_a_step_that_was_begun_is_finished_unless_the_latest_is_asked_for(tmp_path):
    run = save_run(tmp_path, [bloom(1, 4)], steps=((1, 9), (1, 10)))
    kept = broken(run, tmp_path / "a.ckpt", step=9)
    said = []
    result = collected(run, tmp_path / "a.ckpt", segment_bytes=SEGMENT, say=said.append)
    assert (result.choice.step, result.resumed) == (9, kept)
    assert said[0] == "going on with step 9, which was begun"
    broken(run, tmp_path / "a.ckpt", step=9)
    result = collected(run, tmp_path / "a.ckpt", segment_bytes=SEGMENT, latest=True)
    assert (result.choice.step, result.resumed) == (10, 0)


def test_a_host_that_is_lost_under_way_is_replaced_by_its_replicas(tmp_path):
    run = save_run(tmp_path, [bloom(2, 2)])
    said = []
    source = Breaking(run.folders, {"b"}, 1)
    result = collected(run, tmp_path / "a.ckpt", source, segment_bytes=SEGMENT, say=said.append)
    check(run, read_ckpt(tmp_path / "a.ckpt"))
    assert said == ["b is lost: connection lost", "going on with replicas on other hosts"]
    assert set(result.plan.bytes_per_host) == {"a"}


def test_an_interrupt_keeps_what_is_there_and_says_how_to_go_on(tmp_path):
    run = save_run(tmp_path, [bloom(1, 4)])

    def interrupt(done, total):
        if done > 500:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"in place beside .* \(the same command goes on") as caught:
        collected(run, tmp_path / "a.ckpt", progress=interrupt, segment_bytes=SEGMENT, streams_per_host=1)
    assert caught.value.exit_code == 5
    assert collected(run, tmp_path / "a.ckpt", segment_bytes=SEGMENT).resumed >= 500


def test_a_second_collection_is_refused_with_the_pid_of_the_first(tmp_path):
    script = (
        "import sys; from pathlib import Path; from orchestrator.checkpoint.journal import Journal;"
        "journal = Journal(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    output = tmp_path / "a.ckpt"
    argv = [sys.executable, "-c", script, str(output)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(CheckpointError, match=f"another collection, process {other.pid}"):
            Journal(output)
    Journal(output).close()


def test_a_torn_or_foreign_journal_is_no_harm(tmp_path):
    run = save_run(tmp_path, [bloom(1, 4)])
    broken(run, tmp_path / "a.ckpt")
    with (tmp_path / ".a.ckpt.journal").open("ab") as file:
        file.write(b'[1]\n{"signature": 3}\nxx\xff\n[0,0,"x"]\n[12,0,4')
    collected(run, tmp_path / "a.ckpt", segment_bytes=SEGMENT)
    check(run, read_ckpt(tmp_path / "a.ckpt"))


def test_the_manifest_tells_where_every_part_came_from(tmp_path):
    run = save_run(tmp_path, [bloom(1, 2)])
    collected(run, tmp_path / "a.ckpt")
    manifest = json.loads((tmp_path / "a.ckpt.manifest.json").read_text())
    assert (manifest["step"], set(manifest["tensors"])) == (10, set(run.full))
    part = manifest["tensors"]["mapping.weight"]["parts"][1]
    assert (part["region"], part["rank"]) == ([[0, 10], [6, 12]], 1)
    half = np.ascontiguousarray(run.full["mapping.weight"][:, 6:])
    assert part["crc32"] == [f"{zlib.crc32(half):08x}"]
    assert [shard["rank"] for shard in manifest["shards"]] == [0, 1]
    assert manifest["left_out"]["adam_m.norm.gamma"] == "optimizer state"


def test_a_shard_that_changes_under_way_is_an_error_that_names_it(tmp_path):
    run = save_run(tmp_path, [bloom(1, 1)], hosts=("a",))

    def rewrite(done, total):
        if done:
            data = run.shard(0).read_bytes()
            run.shard(0).chmod(0o600)
            run.shard(0).write_bytes(data)

    with pytest.raises(CheckpointError, match="has changed since it was listed") as caught:
        collected(run, tmp_path / "a.ckpt", progress=rewrite, segment_bytes=SEGMENT, streams_per_host=1)
    assert caught.value.where == str(run.shard(0))
    assert not (tmp_path / "a.ckpt").exists()


# Of the same three collections by version afcecfb: what it broke off, this one goes on with.
SIGNATURES = {
    "a.ckpt": "5d8260b2d8d9c305642ecf63765dd3feadee359b3ae10d042bafd68d066f6301",
    "b.safetensors": "d5c964cfe9c29e8761a4007f3419adaf17aa8099933abaf54ac856b3c2366457",
    # Since parameters have no prefix: what an earlier version broke off begins anew.
    "hf": "3bd80b9e7ffaa379013d2f1cfc7d92007991c19ec7447fa56c8eed27e91ac92d",
}
# Of a.ckpt by the same version: number of the slice in its plan, first byte, bytes.
SEGMENTS = {(number, first, 64) for number in range(4) for first in range(0, 448, 64)}
SEGMENTS |= {(number, 448, 32) for number in range(4)}
SEGMENTS |= {(number, first, 64) for number in range(4, 8) for first in range(0, 192, 64)}
SEGMENTS |= {(number, 192, 48) for number in range(4, 8)}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.ckpt", {}),
        ("b.safetensors", {"format": "safetensors", "dtype": "BFloat16"}),
        ("hf", {"format": "huggingface", "dtype": "BFloat16", "model": MODEL}),
    ],
)
def test_the_journal_of_an_earlier_version_is_still_of_use(tmp_path, name, options):
    run = saved(tmp_path, 4) if name == "hf" else save_run(tmp_path, [bloom(1, 4)])
    broken(run, tmp_path / name, **options)
    rows = [json.loads(line) for line in (tmp_path / f".{name}.journal").read_text().splitlines()]
    assert [row["signature"] for row in rows if "signature" in row] == [SIGNATURES[name]]
    if name == "a.ckpt":
        # Which were brought before the break is up to the threads; each is one of the same cut.
        kept = {tuple(row[:3]) for row in rows if isinstance(row, list)}
        assert kept and kept <= SEGMENTS
