"""What a host tells of an image, with a stand-in for the runtime: digests, and probes that do not end."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator.agent import container_probe
from orchestrator.agent.container_probe import in_image
from orchestrator.core.container_records import ContainerSpec

DIGEST = "0123456789abcdef" * 4
# The interpreter of this machine is the image's.
RUNS = """while [ "$1" != image-1 ]; do shift; done; shift; exec "$PYTHON" "$@"
"""
# As runtimes do before they start it.
CID = 'for word; do case $word in --cidfile=*) printf %s "$ID" > "${word#*=}";; esac; done; '
WARNING = 'time="2026-11-27" level=warning msg="Failed to load cached network config: from 10.88.0.0:"'


def runtime(folder: Path, *, inspect: str = f"echo sha256:{DIGEST}", run: str = RUNS) -> ContainerSpec:
    program = folder / "podman"
    program.write_text(
        f'#!/bin/sh\nPYTHON="{sys.executable}"\nID={DIGEST}\necho "$@" >> "{folder}/told"\n'
        f"case $1 in\nversion) echo 5.0;;\nimage) {inspect};;\nrun) {run};;\nps) echo $ID;;\nesac\n"
    )
    program.chmod(0o755)
    return ContainerSpec("image-1", str(program), sys.executable)


@pytest.mark.parametrize(
    "inspect",
    [
        f"echo sha256:{DIGEST}",
        f"echo {DIGEST}",
        f"echo '{WARNING}' >&2; echo {DIGEST}",
        f"echo {DIGEST}; echo '{WARNING}' >&2",
    ],
)
def test_a_digest_is_the_id_whatever_the_runtime_says_beside_it(tmp_path: Path, inspect: str) -> None:
    found = in_image(runtime(tmp_path, inspect=inspect), ["pip"], None)
    assert found.told["digest"] == DIGEST and not {"runtime_trouble", "image_trouble"} & set(found.told)
    assert found.told["python"] == sys.version.split()[0] and found.seen.packages["pip"]


@pytest.mark.parametrize("inspect", ["echo '<none>'", f"echo 'warning: {DIGEST}'", "true"])
def test_an_answer_without_an_id_is_a_trouble(tmp_path: Path, inspect: str) -> None:
    found = in_image(runtime(tmp_path, inspect=inspect), ["pip"], None)
    assert found.told["runtime_trouble"].startswith("tells no id of image-1: ")
    assert "digest" not in found.told and found.seen.trouble


def told(folder: Path, verb: str) -> list[str]:
    return [line for line in (folder / "told").read_text().splitlines() if line.startswith(f"{verb} ")]


@pytest.mark.parametrize("stays", ["exec sleep 600", "kill -9 $$"])
def test_a_container_whose_client_was_killed_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stays: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(container_probe, "_STARTS", 0.5)
    found = in_image(runtime(tmp_path, run=CID + stays), ["pip"], None, patience=0.5)
    assert found.told["inside_trouble"]
    assert told(tmp_path, "rm") == [f"rm --force {DIGEST}"]
    assert [path.name for path in tmp_path.glob("orchestrate-*")] == []


def test_one_whose_client_was_killed_before_there_was_an_id_is_found_by_its_label(tmp_path: Path) -> None:
    found = in_image(runtime(tmp_path, run="kill -9 $$"), ["pip"], None)
    assert found.told["inside_trouble"]
    [label] = [word for word in told(tmp_path, "run")[0].split() if word.startswith("--label=")]
    assert label.startswith("--label=orchestrate.probe=orchestrate-probe-")
    looked_for = f"ps --all --quiet --no-trunc --filter=label={label.partition('=')[2]}"
    assert set(told(tmp_path, "ps")) == {looked_for} and f"rm --force {DIGEST}" in told(tmp_path, "rm")


def test_a_container_that_has_ended_by_itself_is_gone_and_nobody_asks_for_it(tmp_path: Path) -> None:
    found = in_image(runtime(tmp_path, run=CID + RUNS), ["pip"], None)
    assert found.seen.packages["pip"] and told(tmp_path, "rm") == []
    assert "--cidfile=" in told(tmp_path, "run")[0]
