"""The support bundle: FaultDiag's layout, nothing of the job's `env:` in it, no file of others replaced."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import random
import stat
import tarfile
import tempfile
import urllib.parse
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.config.run_terms import JobSource
from orchestrator.control import support_bundle
from orchestrator.control.diagnose import Diagnosis, diagnose
from orchestrator.control.runs import make_control_dir
from orchestrator.control.secret_mask import SecretMask
from orchestrator.control.support_bundle import Bundle, env_values, write_bundle
from orchestrator.core.errors import UsageError
from orchestrator.core.found_evidence import FoundLine
from orchestrator.core.records import Attempt
from orchestrator.diagnosis.evidence import Cause, Certainty, Culprit
from orchestrator.hosts.fleet import Fleet
from orchestrator.plan.launch_plan import write_plan
from tests.control.evident import RUN, FakeAgent, FakeFleet, found_of, plan_of, record_of, view_of
from tests.control.judged import START, rank, status

SECRET = 'hf_"Zq/8+ä9\\tok en'
ENV = {
    "HF_TOKEN": SECRET,
    "PIN": "a1b2",
    "RETRIES": "3",
    "PEM": "-----BEGIN-----\nMIIEvQIBADANBg\n-----END-----",
}


def forms(text: str) -> dict[str, bytes]:
    """How a value comes to be written; made by other means than those of the mask."""
    return {
        "plain": text.encode(),
        "json": json.dumps({"x": text}).encode(),
        "utf8": json.dumps({"x": text}, ensure_ascii=False).encode(),
        "twice": json.dumps(json.dumps({"x": text})).encode(),
        "url": f"https://x/?token={urllib.parse.quote(text, safe='')}&y".encode(),
        "form": urllib.parse.urlencode({"token": text}).encode(),
        "repr": repr({"x": text}).encode(),
        "hex": text.encode().hex().encode(),
        **{
            f"base64+{before}": base64.b64encode(b"Bearer "[:before] + text.encode() + b":tail")
            for before in range(4)
        },
        "urlsafe": base64.urlsafe_b64encode(b"ab" + text.encode()),
        "basic": base64.b64encode(f"user:{text}".encode()),
    }


def leaks(data: bytes, text: str) -> bool:
    """Whether six bytes of the value in a row are there, as they are or in base64."""
    raw = text.encode()
    coded = [base64.b64encode(b"\0" * before + raw)[4 * bool(before) : -4] for before in range(3)]
    windows = [raw[at : at + 6] for at in range(len(raw) - 5)]
    windows += [each[at : at + 8] for each in coded for at in range(len(each) - 7)]
    return any(window in data for window in windows)


@pytest.mark.parametrize("name", list(forms(SECRET)))
@pytest.mark.parametrize("size", [1, 3, 10_000], ids=["by-byte", "by-three", "whole"])
def test_a_value_is_masked_however_it_is_written_and_read(name: str, size: int) -> None:
    mask = SecretMask([("HF_TOKEN", SECRET)])
    written = forms(SECRET)[name]
    data = b"before " + written + b" behind\n"
    masked = b"".join(mask.stream(data[at : at + size] for at in range(0, len(data), size)))
    assert masked.startswith(b"before ") and masked.endswith(b" behind\n")
    assert b"<env HF_TOKEN>" in masked and mask.masked == {"HF_TOKEN": 1}
    assert not leaks(masked[7:-8], SECRET)


def test_values_across_random_borders_are_all_masked() -> None:
    drawn = random.Random(14)
    for _ in range(200):
        values = ["".join(drawn.choices("abcdef", k=drawn.randrange(6, 20))) for _ in range(4)]
        text = b"".join(
            drawn.choice(values).encode() if drawn.random() < 0.3 else drawn.randbytes(5) for _ in range(60)
        )
        mask = SecretMask((f"N{at}", value) for at, value in enumerate(values))
        chunks, at = [], 0
        while at < len(text):
            step = drawn.randrange(1, 30)
            chunks.append(text[at : at + step])
            at += step
        masked = b"".join(mask.stream(chunks))
        assert not any(value.encode() in masked for value in values)
        assert masked == SecretMask((f"N{at}", value) for at, value in enumerate(values)).of_bytes(text)


def test_lines_of_a_value_of_several_are_masked_too() -> None:
    mask = SecretMask([("PEM", ENV["PEM"])])
    assert b"MIIEvQ" not in mask.of_bytes(b"[rank 0] -----BEGIN-----\n[rank 0] MIIEvQIBADANBg\n")


def test_what_is_short_or_common_is_masked_beside_its_name_only() -> None:
    mask = SecretMask([("RETRIES", "3"), ("PIN", "a1b2"), ("MODE", "debug")])
    text = b"step 3 of 3, debug; RETRIES=3 'MODE': 'debug' PIN a1b2 xa1b2x\n"
    assert mask.of_bytes(text) == (b"step 3 of 3, debug; <env RETRIES> '<env MODE>' PIN <env PIN> xa1b2x\n")
    assert set(mask.beside) == {"RETRIES", "MODE"}


def test_a_value_that_was_cut_is_masked_as_well() -> None:
    mask = SecretMask([("HF_TOKEN", "abcdefghijkl")])
    assert mask.of_text("Authorization: abcdefgh") == "Authorization: <env HF_TOKEN>"
    assert mask.of_text("ghijkl, and so on") == "<env HF_TOKEN>, and so on"
    assert mask.of_json({"x": ["abcdefghijkl", 3, None]}) == {"x": ["<env HF_TOKEN>", 3, None]}


def test_nothing_to_mask_changes_nothing() -> None:
    assert SecretMask([]).of_bytes(b"x" * 1000) == b"x" * 1000
    assert SecretMask([("A", "")]).of_text("x") == "x"


# The bundle.


def bundled(folder: Path, path: Path, agents: dict[str, FakeAgent | None], **plan: Any) -> Bundle:
    text = "env:\n  HF_TOKEN: >-\n    first-half-of-it\n    second-half-of-it\n"
    source = JobSource(Path("job.yaml"), text, ("env.HF_TOKEN=first-half-of-it second-half-of-it",))
    planned = dataclasses.replace(plan_of(**{"env": ENV, **plan}), job=source)
    control = make_control_dir(planned, folder / "state")
    control.monitor_log.write_text(f"watching with {SECRET}\n")
    fleet = cast(Fleet, FakeFleet(agents))
    views = {"a": view_of("a", rank(0), rank(1)), "b": view_of("b", rank(2), rank(3))}
    record = record_of(views, errors=(f"it said {SECRET}",))
    cause = Cause("python_error", Certainty.SURE, Culprit("b", 2, 0))
    found: Diagnosis = diagnose(control, planned, fleet, lambda case: cause, record=record)
    return write_bundle(path, control, planned, found, {"cause": f"x {SECRET}"}, fleet)


def agents(**of_b: Any) -> dict[str, FakeAgent | None]:
    log = b"".join(b"line %d\n" % number for number in range(50)) + b"".join(
        written + b"\n" for written in forms(SECRET).values()
    )
    plogs = {
        "rank_0/debug/plog/plog-7_20260101.log": b"[ERROR] " + SECRET.encode() + b"\n",
        "rank_1/run/device-1/device-8_20260101.log": b"of the device\n",
        "rank_0/debug/plog/../../../etc/passwd": b"no",
        "rank_9/debug/plog/plog-9_1.log": b"of a rank that it has not\n",
    }
    first = FakeAgent(
        "a",
        status("a", rank(0), rank(1), phase="over"),
        found_of(kernel=(FoundLine(f"comm: {SECRET}", time=START),), unread=(f"x: {SECRET[:12]}",)),
        logs={"rank_0": log, "rank_1": b"short\n"},
        plogs=plogs,
    )
    second = FakeAgent("b", status("b", rank(2), rank(3), phase="over"), found_of(), **of_b)
    return {"a": first, "b": second}


def content(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {each.name: cast(Any, archive.extractfile(each)).read() for each in archive.getmembers()}


def test_a_bundle_has_faultdiags_layout_and_no_value_of_env(tmp_path: Path) -> None:
    path = tmp_path / "out.tar.gz"
    bundle = bundled(tmp_path, path, agents(), ascend=True)
    files = content(path)
    names = {name.partition("/")[2] for name in files}
    assert all(name.startswith(f"{RUN}/") and ".." not in name for name in files)
    assert names >= {
        "bundle.json",
        "plan.json",
        "record.json",
        "diagnosis.json",
        "monitor.log",
        "a/rank-0.txt",
        "a/rank-1.txt",
        "b/rank-2.txt",
        "a/dmesg",
        "a/process_log/debug/plog/plog-7_20260101.log",
        "a/device_log/run/device-1/device-8_20260101.log",
        "a/environment_check/npu_info_after.txt",
        "a/environment_check/host.json",
    }
    assert not any("passwd" in name or "plog-9" in name for name in names)
    for name, data in files.items():
        assert b"half-of-it" not in data, name
        assert SECRET.encode() not in data and b"MIIEvQ" not in data and b"a1b2" not in data, name
        for line in data.splitlines():
            assert not leaks(line, SECRET) if name.endswith("rank-0.txt") else SECRET.encode() not in line
    log = files[f"{RUN}/a/rank-0.txt"]
    assert log.startswith(b"line 0\n") and log.count(b"<env HF_TOKEN>") >= len(forms(SECRET))
    for name in ("plan", "record", "diagnosis", "bundle"):
        json.loads(files[f"{RUN}/{name}.json"])
    assert json.loads(files[f"{RUN}/plan.json"])["manifests"]["a"]["workers"][0]["env"]["HF_TOKEN"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert bundle.masked["HF_TOKEN"] >= len(forms(SECRET)) and bundle.beside == ("RETRIES",)
    assert bundle.files == len(files)
    assert any("2 of CANN's logs" in line for line in bundle.left_out)
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_values_that_an_attempt_before_has_had_are_masked_too(tmp_path: Path) -> None:
    planned = dataclasses.replace(plan_of(env=ENV), attempt=Attempt(2, "two"))
    control = make_control_dir(planned, tmp_path / "state")
    control.folder_of(1).mkdir()
    write_plan(control.plan_of(1), plan_of(env={**ENV, "HF_TOKEN": "the-one-of-before"}))
    record = record_of({"a": view_of("a", rank(0))}, errors=("it said the-one-of-before",))
    path = tmp_path / "out.tar.gz"
    write_bundle(path, control, planned, Diagnosis(record), {}, cast(Fleet, FakeFleet(agents())))
    assert not any(b"of-before" in data for data in content(path).values())


def test_a_host_that_is_away_is_left_out_and_said(tmp_path: Path) -> None:
    path = tmp_path / "out.tar.gz"
    bundle = bundled(tmp_path, path, {**agents(), "b": None})
    assert any(line.startswith("b: it could not be asked") for line in bundle.left_out)
    assert f"{RUN}/a/rank-0.txt" in content(path)


def test_an_earlier_bundle_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.tar.gz"
    bundled(tmp_path / "1", path, agents())
    before = path.stat().st_ino
    bundled(tmp_path / "2", path, agents())
    assert path.stat().st_ino != before
    other, link, foreign = tmp_path / "notes.txt", tmp_path / "link", tmp_path / "foreign.tar.gz"
    other.write_text("mine")
    link.symlink_to(other)
    with tarfile.open(foreign, "w:gz") as archive:
        archive.add(other, "bundle.json")
    os.mkfifo(tmp_path / "pipe")
    for number, taken in enumerate((other, link, foreign, tmp_path / "pipe")):
        with pytest.raises(UsageError, match="is left as it is"):
            bundled(tmp_path / f"3{number}", taken, agents())
    assert other.read_text() == "mine" and link.is_symlink()


def test_names_have_no_value_of_env_either(tmp_path: Path) -> None:
    """A host is called what a variable says."""
    path = tmp_path / "out.tar.gz"
    named = {"longhost1": agents()["a"]}
    cast(Any, named["longhost1"]).host = "longhost1"
    bundled(tmp_path, path, named, env={"WHERE": "longhost1"})
    files = content(path)
    assert f"{RUN}/host-0/dmesg" in files and not any("longhost1" in name for name in files)
    assert not any(b"longhost1" in data for data in files.values())


def test_a_value_that_is_in_it_all_the_same_keeps_the_bundle_away() -> None:
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            info = tarfile.TarInfo("x")
            info.size = 12
            archive.addfile(info, io.BytesIO(b"a longsecret"))
        support_bundle._require_clean(file, SecretMask([("A", "othersecret")]))
        with pytest.raises(UsageError, match="is not written"):
            support_bundle._require_clean(file, SecretMask([("A", "longsecret")]))


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        bundled(tmp_path, tmp_path / "none" / "out.tar.gz", agents())


def test_the_jobs_own_values_are_those_that_are_masked() -> None:
    values = dict(env_values(plan_of(env=ENV)))
    assert values == ENV
