"""The keys of copies, and what owners have said of them in the records of a run."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from orchestrator.control.attempts import keep_record
from orchestrator.control.copied_files import owners_word
from orchestrator.control.copies import Authority, copier_files
from orchestrator.control.run_record import AttemptRecord, HostView, RunRecord
from orchestrator.core.codec import loads
from orchestrator.core.copier_config import CONFIG_NAME, KEY_NAME, CopierConfig
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import Attempt, CopiedFile, CopyStatus, HostStatus
from orchestrator.core.states import RunState
from orchestrator.hosts.fleet import fleet_of
from orchestrator.plan.make_plan import make_plan
from tests.config.support import inventory, job


def test_a_certificate_names_run_attempt_and_host_and_trusts_no_clock() -> None:
    authority = Authority("run-1", Attempt(2, "abcd"))
    pem = authority.issue("npu1")
    certificate = x509.load_pem_x509_certificate(pem[pem.index("-----BEGIN CERT") :].encode())
    names = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    assert isinstance(names, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["orchestrate://run-1/2/abcd/npu1"]
    assert certificate.not_valid_before_utc.replace(tzinfo=None) == datetime(1970, 1, 1)
    assert certificate.not_valid_after_utc.year == 9999
    trusted = x509.load_pem_x509_certificate(authority.certificate.encode())
    certificate.verify_directly_issued_by(trusted)
    assert "PRIVATE KEY" not in authority.certificate
    assert authority.issue("npu1") != pem


def test_each_host_is_given_its_key_and_its_part_of_the_ring(tmp_path: Path) -> None:
    hosts = (
        "transport: local\n"
        f"defaults: {{devices: 0-1, workdir: '{tmp_path}/{{name}}'}}\n"
        "hosts:\n  - name: h[1-3]\n"
        "copy: {network: 127.0.0.0/8, ports: 29700-29731}\n"
    )
    text = (
        "name: cmd\ntask: command\ndevices_per_host: 2\ndevice_target: CPU\ncommand: [run]\n"
        "networking: {mode: none}\ncheckpoint: {copies: 1, keep: 7}\n"
    )
    plan = make_plan(job(tmp_path, text), inventory(tmp_path, hosts))
    with fleet_of(plan.hosts, plan.ssh) as fleet:
        files = copier_files(plan, fleet)
        assert copier_files(dataclasses.replace(plan, copies=None), fleet) == {}
    configs = {host: loads(CopierConfig, found[CONFIG_NAME]) for host, found in files.items()}
    assert {host: (one.keeper, dict(one.owners), one.ranks) for host, one in configs.items()} == {
        "h1": ("h2", {"h3": (4, 5)}, (0, 1)),
        "h2": ("h3", {"h1": (0, 1)}, (2, 3)),
        "h3": ("h1", {"h2": (2, 3)}, (4, 5)),
    }
    assert {(one.address, one.keeper_address, one.keep) for one in configs.values()} == {
        ("127.0.0.1", "127.0.0.1", 7)
    }
    assert len({found[KEY_NAME] for found in files.values()}) == 3
    assert not any("PRIVATE" in found[CONFIG_NAME] for found in files.values())


def record(number: int, *files: CopiedFile) -> RunRecord:
    status = HostStatus("run-1", "job", "a", 0.0, (), copies=CopyStatus(10, files=files))
    return RunRecord(
        run_id="run-1",
        job="job",
        task="finetune",
        world_size=2,
        created=0.0,
        updated=0.0,
        state=RunState.FAILED,
        hosts={"a": HostView(status), "b": HostView()},
        attempts=tuple(AttemptRecord(each) for each in range(1, number + 1)),
    )


def test_what_owners_have_said_is_known_of_every_attempt(tmp_path: Path) -> None:
    control = ControlDir(tmp_path / "runs" / "run-1")
    control.make(1)
    keep_record(control, record(1, CopiedFile("rank_0/m_rank_0-1_10.ckpt", 10, 4, "0" * 64)))
    control.make(2)
    newest = record(2, CopiedFile("rank_0/m_rank_0-1_20.ckpt", 20, 4, "1" * 64))
    assert owners_word(control, newest) == {
        (1, "a", "rank_0/m_rank_0-1_10.ckpt"): "0" * 64,
        (2, "a", "rank_0/m_rank_0-1_20.ckpt"): "1" * 64,
    }
    control.kept_record(1).write_text("{")  # damaged: what it said is not known
    assert list(owners_word(control, newest)) == [(2, "a", "rank_0/m_rank_0-1_20.ckpt")]
