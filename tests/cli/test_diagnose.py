"""`orchestrate diagnose`: what is told of a cause, in two languages and as data; a real run."""

from __future__ import annotations

import dataclasses
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.language import language
from orchestrator.cli.render_diagnosis import bundle_lines, diagnosis_data, diagnosis_text
from orchestrator.cli.sentences import cause_sentence
from orchestrator.control.cause_history import History
from orchestrator.control.diagnose import Diagnosis
from orchestrator.control.hang_stacks import Frame, StackGroup
from orchestrator.control.run_record import Cause as RecordedCause
from orchestrator.control.support_bundle import Bundle
from orchestrator.core.ends import SCHEDULER, End, EndKind
from orchestrator.core.errors import ConnectError
from orchestrator.core.states import RunState
from orchestrator.diagnosis.evidence import Cause, Certainty, Culprit, Proof
from orchestrator.diagnosis.signatures import KINDS
from orchestrator.testing.local_cluster import Cluster, eventually
from tests.control.evident import record_of, view_of
from tests.control.judged import START, rank

KIND = "host_out_of_memory"
LINE = "Out of memory: Killed process 6033 (python)"
SURE = Cause(
    KIND,
    Certainty.SURE,
    Culprit("b", 2, 1),
    (Proof("b", 2, "kernel", LINE), Proof("a", 0, "worker", "peer lost \x1b[31m")),
    victims=(0, 1, 3, SCHEDULER),
    code="EL0004",
)


def diagnosis(cause: Cause | None = SURE, state: RunState = RunState.FAILED, **fields: Any) -> Diagnosis:
    record = record_of({"a": view_of("a", rank(0)), "b": view_of("b", rank(2))}, state, ended=START + 65)
    return Diagnosis(record, cause, **fields)


def text_of(found: Diagnosis, lang: str = "en") -> list[str]:
    return diagnosis_text(found, lang).plain.splitlines()


@pytest.mark.parametrize(
    ("environ", "encoding", "expected"),
    [
        ({}, "utf-8", "en"),
        ({"LANG": "zh_CN.UTF-8"}, "utf-8", "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "en_US.UTF-8"}, "utf-8", "en"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "zh_TW"}, "utf-8", "zh"),
        ({"LANG": "zh_CN.GB18030", "LC_ALL": ""}, "gb18030", "zh"),
        ({"LC_ALL": "C", "LANG": "zh_CN.UTF-8"}, "utf-8", "en"),
        ({"LANG": "zh_CN.UTF-8"}, "ascii", "en"),
    ],
    ids=["none", "lang", "messages-first", "all-first", "empty-is-none", "c", "no-characters"],
)
def test_the_language_is_the_locales(environ: dict[str, str], encoding: str, expected: str) -> None:
    assert language(environ, encoding) == expected


def test_a_cause_is_told_with_its_evidence_and_what_to_do() -> None:
    history = History(14, ("r9", "r7"), ("r7",))
    lines = text_of(diagnosis(history=history, unread={"a": ("dmesg: denied",), "b": ("dmesg: denied",)}))
    assert lines[1] == f"Cause: {KINDS[KIND].name_en}: b, rank 2, device 1 (EL0004)"
    assert lines[2].startswith("How sure: certain")
    assert f"  b, rank 2, kernel | {LINE}" in lines
    assert "  a, rank 0, worker | peer lost \\x1b[31m" in lines
    assert any("rank 0-1, 3, scheduler" in line for line in lines)
    assert f"What to do: {KINDS[KIND].remedy_en}" in lines
    assert (
        "Before: b was the cause of 2 of the 14 attempts before this one, 1 of them its device 1 (r9, r7)"
        in lines
    )
    assert "To go on: orchestrate resume r1" in lines
    assert "  [a-b]: dmesg: denied" in lines or "  a,b: dmesg: denied" in lines, lines


def test_the_same_in_chinese() -> None:
    lines = text_of(diagnosis(history=History(14, ("r9",), ())), "zh")
    assert lines[1] == f"原因: {KINDS[KIND].name_zh}: b, 进程 rank 2, 设备 1 (EL0004)"
    assert f"处理建议: {KINDS[KIND].remedy_zh}" in lines
    assert any("此前 14 次运行中，b 有 1 次是原因" in line for line in lines)


def test_where_it_is_not_known_the_suspects_are_named() -> None:
    suspects = tuple(Culprit("b", number) for number in range(10))
    lines = text_of(diagnosis(Cause("unknown", Certainty.UNKNOWN, suspects=suspects)))
    assert lines[1].startswith("Cause: ") and "b, rank" not in lines[1]
    assert next(line for line in lines if line.startswith("Suspects")).endswith("and 2 more")


def test_a_run_that_hangs_names_the_two_commands() -> None:
    found = diagnosis(dataclasses.replace(SURE, certainty=Certainty.LIKELY), RunState.RUNNING)
    assert "To go on: orchestrate stop r1 && orchestrate resume r1" in text_of(found)
    data = diagnosis_data(found, "en")
    assert data["state"] == "running" and data["cause"]["certainty"] == "likely"


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (RunState.SUCCEEDED, "it succeeded"),
        (RunState.STOPPED, "it was stopped"),
        (RunState.RUNNING, "nothing says"),
    ],
    ids=str,
)
def test_a_run_without_a_cause_says_how_it_is(state: RunState, words: str) -> None:
    found = diagnosis(None, state)
    assert words in text_of(found)[1]
    data = diagnosis_data(found, "en")
    assert data["cause"] is None and data["resume"] is None


def test_a_launch_that_came_to_nothing_says_why() -> None:
    record = dataclasses.replace(record_of({}), errors=("a: no such host",))
    lines = text_of(Diagnosis(record))
    assert lines[1] == "Cause: no worker was started" and "  | a: no such host" in lines


def test_where_the_ranks_are_is_told_of_a_run_that_goes_on() -> None:
    groups = (
        StackGroup((0, 1, 2), "faulthandler", (Frame("all_reduce", "hccl.py", 10),), "File ...", ""),
        StackGroup((3,), "kernel", (), "", "State: D"),
    )
    found = diagnosis(Cause("hang", Certainty.UNKNOWN), RunState.RUNNING, stacks_now=groups)
    lines = text_of(found)
    assert lines[-2:] == ["  rank 0-2: all_reduce (hccl.py:10) (faulthandler)", "  rank 3: State: D (kernel)"]
    assert diagnosis_data(found, "en")["stacks_now"][0]["ranks"] == [0, 1, 2]


def test_data_has_what_the_text_has() -> None:
    errors = {"b": ConnectError("no route", where="b")}
    data = diagnosis_data(diagnosis(history=History(3, ("r9",)), errors=errors), "en")
    json.dumps(data, allow_nan=False)
    assert data["cause"]["kind"] == KIND and data["cause"]["culprit"] == {"host": "b", "rank": 2, "device": 1}
    assert data["cause"]["name"] == KINDS[KIND].name_en and data["cause"]["proofs"][0]["text"] == LINE
    assert data["cause"]["victims"] == ["rank_0", "rank_1", "rank_3", "scheduler"]
    assert data["history"] == {"attempts": 3, "of_host": ["r9"], "of_device": []}
    assert data["unreachable"] == {"b": "b: no route"} and data["resume"] == "orchestrate resume r1"


def test_what_a_bundle_lacks_is_said() -> None:
    bundle = Bundle(Path("x.tar.gz"), 3, 2000, {"TOKEN": 2}, ("N",), ["b: its logs"])
    lines = bundle_lines(bundle)
    assert lines[0] == "x.tar.gz: 3 files, 2.00 kB" and "2 occurrence(s)" in lines[1]
    assert "N" in lines[2] and lines[3] == "left out: b: its logs"


# A real run, real processes.


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster.local(tmp_path)
    yield cluster
    cluster.close()


def test_a_real_run_that_fails_is_diagnosed_and_packed(local: Cluster) -> None:
    secret = "s3cret-of-the-job-77"
    program = (
        "import os, sys, time\n"
        "print('token', os.environ['TOKEN'], flush=True)\n"
        "if os.environ['RANK_ID'] == '2':\n"
        "    time.sleep(1)\n"
        "    raise KeyError('no such layer')\n"
        "time.sleep(300)\n"
    )
    script = local.folder / "train.py"
    script.write_text(program)
    job = local.job(["{python}", str(script)], env={"TOKEN": secret})
    assert local.launch(job).returncode == 1
    found = local.run("diagnose", "--json", "--bundle", "out.tar.gz")
    assert found.returncode == 0, found.stderr
    data = json.loads(found.stdout)
    assert data["state"] == "failed" and data["cause"]["culprit"]["host"] == "host2"
    assert data["cause"]["culprit"]["rank"] == 2 and data["cause"]["certainty"] != "unknown"
    assert any("KeyError: 'no such layer'" in proof["text"] for proof in data["cause"]["proofs"])
    assert data["resume"] == f"orchestrate resume {data['run_id']}"
    with tarfile.open(local.folder / "out.tar.gz") as archive:
        files = {each.name: archive.extractfile(each).read() for each in archive.getmembers()}  # type: ignore[union-attr]
    assert b"<env TOKEN>" in files[f"{data['run_id']}/host2/rank-2.txt"]
    assert not any(secret.encode() in content for content in files.values())
    local.env.update(LC_ALL="zh_CN.UTF-8", PYTHONIOENCODING="utf-8")
    told = local.run("diagnose")
    assert told.returncode == 0 and "原因: " in told.stdout and "no such layer" in told.stdout


def test_the_one_line_of_status_and_launch_has_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    end = End(EndKind.EXITED, START, exit_code=1, evidence=("OSError: [Errno 28] No space left on device",))
    cause = RecordedCause("b", 2, end, START)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    assert cause_sentence(cause) == f"rank 2 on b exited with code 1: {KINDS['disk_full'].name_en}"
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert cause_sentence(cause).endswith(f": {KINDS['disk_full'].name_zh}")


@pytest.fixture
def memory_group(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A control group for memory, of either version, and the name of the file for its limit."""
    name = f"orchestrate-{os.getpid()}"
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(root, name)
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / limit).exists():
            yield group, limit
            eventually(lambda group=group: not (group / "cgroup.procs").read_text(), what="an empty group")
            group.rmdir()
            return
        group.rmdir()
    pytest.skip("no control group for memory can be made here")


@pytest.mark.root
def test_a_worker_that_takes_more_memory_than_its_group_has(
    local: Cluster, memory_group: tuple[Path, str]
) -> None:
    group, limit = memory_group
    script = local.folder / "train.py"
    script.write_text(
        "import os, time\n"
        "if os.environ['RANK_ID'] == '1':\n"
        f"    open('{group}/{limit}', 'w').write('60000000')\n"
        f"    open('{group}/cgroup.procs', 'w').write(str(os.getpid()))\n"
        "    taken = []\n"
        "    while True:\n"
        "        taken.append(bytearray(5_000_000))\n"
        "time.sleep(300)\n"
    )
    assert local.launch(local.job(["{python}", str(script)])).returncode == 1
    data = json.loads(local.run("diagnose", "--json").stdout)
    cause = data["cause"]
    assert cause["kind"] == "cgroup_out_of_memory" and cause["certainty"] == "sure", cause
    assert cause["culprit"]["host"] == "host1" and cause["culprit"]["rank"] == 1
    assert any("out of memory" in proof["text"] for proof in cause["proofs"])
