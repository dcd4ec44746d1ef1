"""MindFormers' checkpoint 2.0: the newest iteration that is whole over all hosts, whatever a tracker says."""

import json
from pathlib import Path

import numpy as np
import pytest

from orchestrator.agent.iteration_folders import list_iterations
from orchestrator.checkpoint.cut.iterations import newest_iteration
from orchestrator.checkpoint.files.tensor_files import write_safetensors
from orchestrator.core.codec import from_json
from orchestrator.core.errors import CheckpointError
from orchestrator.core.iteration_answers import IterationList

FILES = [f"{kind}-{number:07d}-0000002.safetensors" for kind in ("model", "opt") for number in (0, 1)]


def save(root: Path, iteration: int, files: list[str], *, prefix: str = "", first: bool = True) -> Path:
    """As MindFormers saves; the first rank's host has the JSON files."""
    folder = root / f"iteration_{iteration:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        write_safetensors(folder / f"{prefix}{name}", [("w", np.zeros(4, np.float32))])
    if first:
        (folder / "common.json").write_text(json.dumps({"step_num": iteration, "global_step": iteration}))
        named = {"state_dict_metadata": {"w": [{"file": f"{prefix}{name}"} for name in FILES]}}
        (folder / "metadata.json").write_text(json.dumps(named))
        (root / "latest_checkpointed_iteration.txt").write_text(str(iteration))
    return folder


def told(**roots: Path) -> dict[str, IterationList]:
    return {host: from_json(IterationList, list_iterations(str(root))) for host, root in roots.items()}


def test_the_newest_that_is_whole(tmp_path: Path) -> None:
    save(tmp_path, 90, FILES)
    save(tmp_path, 100, FILES, prefix="llama-")
    found = newest_iteration(told(a=tmp_path))
    assert (found.iteration, found.notes()) == (100, [])
    assert newest_iteration(told(a=tmp_path), step=90).iteration == 90


def test_files_that_are_spread_over_hosts_are_put_together(tmp_path: Path) -> None:
    save(tmp_path / "a", 100, [FILES[0], FILES[2]])
    save(tmp_path / "b", 100, [FILES[1], FILES[3]], first=False)
    found = newest_iteration(told(a=tmp_path / "a", b=tmp_path / "b"))
    assert found.files == {FILES[0]: "a", FILES[2]: "a", FILES[1]: "b", FILES[3]: "b"}
    with pytest.raises(CheckpointError, match="100 lacks model file 1 of 2, opt file 1 of 2"):
        newest_iteration(told(a=tmp_path / "a"))


@pytest.mark.parametrize(
    ("hurt", "lacks"),
    [
        (lambda folder: (folder / FILES[3]).unlink(), "opt file 1 of 2"),
        (
            lambda folder: (folder / FILES[0]).write_bytes((folder / FILES[0]).read_bytes()[:-2]),
            "model file 0 of 2",
        ),
        (lambda folder: (folder / FILES[0]).write_bytes(b""), "model file 0 of 2"),
        (lambda folder: (folder / "common.json").unlink(), "common.json"),
        (lambda folder: (folder / "metadata.json").write_text('{"state'), "metadata.json"),
        (lambda folder: (folder / "metadata.json").unlink(), "metadata.json"),
        (lambda folder: [(folder / name).unlink() for name in FILES[:2]], "all files of weights"),
        (lambda folder: (folder / "model-0000000-0000004.safetensors").write_bytes(b""), "of 2 and 4"),
    ],
    ids=["gone", "cut", "empty", "common", "half a metadata", "no metadata", "no weights", "two savings"],
)
def test_one_that_is_not_whole_is_passed_over_though_the_tracker_names_it(
    tmp_path: Path, hurt, lacks
) -> None:
    save(tmp_path, 90, FILES)
    hurt(save(tmp_path, 100, FILES))
    found = newest_iteration(told(a=tmp_path))
    assert found.iteration == 90
    newer, tracker = found.notes()
    assert "iteration 100 is newer but not whole" in newer and lacks in newer
    assert tracker == "a: the tracker says 100: 90 was taken"


@pytest.mark.parametrize("text", ["", "release", "9" * 40, "\x1b[2J"])
def test_a_tracker_that_says_nothing_is_of_no_matter(tmp_path: Path, text: str) -> None:
    save(tmp_path, 90, FILES)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text(text)
    assert newest_iteration(told(a=tmp_path)).notes() == []


def test_a_tracker_alone_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("100")
    (tmp_path / "iteration_00000100").symlink_to(save(tmp_path / "elsewhere", 100, FILES))
    with pytest.raises(CheckpointError, match=r"no iteration is whole: 100 lacks common\.json"):
        newest_iteration(told(a=tmp_path))
    with pytest.raises(CheckpointError, match="no iteration is saved on a, b"):
        newest_iteration(told(a=tmp_path / "elsewhere2", b=tmp_path / "none"))


def test_weights_alone_do_without_the_optimizer(tmp_path: Path) -> None:
    folder = save(tmp_path, 100, FILES)
    (folder / FILES[3]).unlink()
    assert newest_iteration(told(a=tmp_path), with_optimizer=False).iteration == 100
