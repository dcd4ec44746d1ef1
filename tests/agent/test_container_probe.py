"""What a host tells of an image, with a stand-in for the runtime: digests, and probes that do not end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orchestrator.agent.container_probe import in_image
from orchestrator.core.container_records import ContainerSpec

DIGEST = "0123456789abcdef" * 4
# The interpreter of this machine is the image's.
RUNS = """while [ "$1" != image-1 ]; do shift; done; shift; exec "$PYTHON" "$@"
"""
WARNING = 'time="2026-11-27" level=warning msg="Failed to load cached network config: from 10.88.0.0:"'


def runtime(folder: Path, *, inspect: str = f"echo sha256:{DIGEST}", run: str = RUNS) -> ContainerSpec:
    program = folder / "podman"
    program.write_text(
        f'#!/bin/sh\nPYTHON="{sys.executable}"\necho "$@" >> "{folder}/told"\n'
        f"case $1 in\nversion) echo 5.0;;\nimage) {inspect};;\nrun) {run};;\nesac\n"
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
