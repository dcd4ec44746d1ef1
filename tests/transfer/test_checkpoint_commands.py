import json
import re

import click
import numpy as np
import pytest
from click.testing import CliRunner

from orchestrator.checkpoint.files.tensor_files import read_ckpt, write_ckpt
from orchestrator.cli.cmd_checkpoint import command
from orchestrator.cli.units import ByteSize, Number, byte_size
from orchestrator.core.errors import CheckpointError
from tests.transfer.mindformers_folder import saved_by_mindformers, strategies_of_two, tensors
from tests.transfer.test_inspect import saved


def run(*words, code=0):
    result = CliRunner().invoke(command, [str(word) for word in words], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    assert (result.return_value or 0) == code, result.output
    return result.output


def test_from_ranks_to_a_file_and_back(tmp_path):
    saved(tmp_path / "output")
    strategy = tmp_path / "output" / "strategy"
    source = ("--checkpoint-dir", tmp_path / "output" / "checkpoint")
    text = run("combine", *source, "-o", tmp_path / "a.ckpt", "--dry-run")
    assert text.splitlines()[0] == f"{tmp_path}/a.ckpt: step 10, 10 tensors, 4.41 kB"
    assert re.search(r"left out: 10 tensors, \d+\.\d+ kB: optimizer state", text)
    assert text.splitlines()[-1] == "nothing was written (--dry-run)"
    assert not (tmp_path / "a.ckpt").exists()
    assert run("combine", *source, "-o", tmp_path / "a.ckpt").startswith(
        f"{tmp_path}/a.ckpt: step 10, 10 ten"
    )
    run("split", tmp_path / "a.ckpt", "--strategy", strategy, "-o", tmp_path / "s", "--dry-run")
    assert "8 files, 10 tensors" in run(
        "split", tmp_path / "a.ckpt", "--strategy", strategy, "-o", tmp_path / "s"
    )
    back = ("--checkpoint-dir", tmp_path / "s", "--strategy-dir", strategy)
    run("combine", *back, "-o", tmp_path / "b.safetensors")
    assert run("diff", tmp_path / "a.ckpt", tmp_path / "b.safetensors") == "no difference\n"
    run("transform", *back, "--target-strategy", strategy, "-o", tmp_path / "t")
    run("combine", *back, "-o", tmp_path / "hf", "--max-shard-size", "2kB")
    assert (tmp_path / "hf" / "model.safetensors.index.json").exists()
    assert run("diff", tmp_path / "a.ckpt", tmp_path / "hf", "--atol", "0") == "no difference above 0\n"


def test_which_step_the_files_of_mindformers_are_of_they_say_themselves(tmp_path):
    """Their names count the steps of an epoch, and what was renamed or copied over may lie."""
    folder = saved_by_mindformers(tmp_path, 9, 15, halves=True)
    strategies_of_two(folder / "strategy")
    assert json.loads(run("inspect", folder, "--json"))["step"] == 15
    assert "step 15: all slices of" in run("verify", folder)
    source = ("--checkpoint-dir", folder)
    assert ": step 15, " in run("combine", *source, "--step", "15", "-o", tmp_path / "a.ckpt")
    # A file of another step under the name of this one.
    write_ckpt(folder / "checkpoint/rank_1/llama_rank_1-2_5.ckpt", tensors(14, 1, halves=True))
    assert json.loads(run("inspect", folder, "--json"))["step"] == 9
    assert ": step 9, " in run("combine", *source, "-o", tmp_path / "b.ckpt")
    with pytest.raises(CheckpointError, match=r"no step is complete|lacks rank 1"):
        run("combine", *source, "--step", "15", "-o", tmp_path / "c.ckpt")


def test_what_was_made_is_told_as_data(tmp_path):
    saved(tmp_path / "output")
    source = ("--checkpoint-dir", tmp_path / "output" / "checkpoint")
    output = tmp_path / "a.ckpt"
    planned, made = (
        json.loads(run("combine", *source, "-o", output, "--json", *words)) for words in (("--dry-run",), ())
    )
    assert (planned.pop("written"), made.pop("written")) == (False, True)
    assert planned == made
    assert (made["path"], made["step"], made["files"], made["tensors"]) == (str(output), 10, 1, 10)
    assert made["bytes"] == output.stat().st_size
    assert {one["reason"]: one["tensors"] for one in made["left_out"]}["optimizer state"] == 10
    strategy = tmp_path / "output" / "strategy"
    split = json.loads(run("split", output, "--strategy", strategy, "-o", tmp_path / "s", "--json"))
    assert split["files"] == 8 and split["bytes"] == sum(
        path.stat().st_size for path in (tmp_path / "s").glob("*/*.ckpt")
    )
    back = ("--checkpoint-dir", tmp_path / "s", "--strategy-dir", strategy)
    turned = json.loads(
        run("transform", *back, "--target-strategy", strategy, "-o", tmp_path / "t", "--json")
    )
    assert turned["files"] == 8


def test_diff_says_which_and_has_an_exit_code_of_its_own(tmp_path):
    saved(tmp_path / "output")
    run("combine", "--checkpoint-dir", tmp_path / "output", "-o", tmp_path / "a.ckpt")
    tensors = {name: tensor.array().copy() for name, tensor in read_ckpt(tmp_path / "a.ckpt").items()}
    tensors["mapping.bias"][2] += 1
    tensors["x"] = np.zeros(1)
    write_ckpt(tmp_path / "b.ckpt", tensors.items())
    text = run("diff", tmp_path / "a.ckpt", tmp_path / "b.ckpt", code=6)
    assert text.splitlines() == [
        "2 tensors differ, the worst first:",
        f"  x is only in {tmp_path}/b.ckpt",
        "  mapping.bias differs in 1 of 12 elements, by 1 at [2]",
    ]
    data = json.loads(run("diff", tmp_path / "a.ckpt", tmp_path / "b.ckpt", "--json", code=6))
    assert (data["equal"], data["differences"][0]["largest"]) == (False, None)


def test_inspect_folds_blocks_and_moments(tmp_path):
    blocks = [
        (f"{p}blocks.{n}.w", np.zeros((2, 2), np.float32)) for p in ("", "adam_m.") for n in (0, 1, 2, 5)
    ]
    write_ckpt(tmp_path / "a.ckpt", [*blocks, ("blocks.3.w", np.zeros(3, np.float32))])
    lines = [" ".join(line.split()) for line in run("inspect", tmp_path / "a.ckpt").splitlines()]
    assert lines == [
        "9 tensors, 35 numbers, 140 B",
        "NAME SHAPE TYPE SIZE",
        "blocks.[0-2,5].w 2,2 Float32 4 × 16 B",
        "blocks.3.w 3 Float32 12 B",
        "and the optimizer's state: 4 tensors, 64 B (--all lists it)",
    ]
    assert len(run("inspect", tmp_path / "a.ckpt", "--all").splitlines()) == 11
    assert len(json.loads(run("inspect", tmp_path / "a.ckpt", "--json"))["tensors"]) == 9


def test_verify_has_a_line_each_and_an_exit_code(tmp_path):
    run_ = saved(tmp_path / "output")
    assert all(line.startswith("ok ") for line in run("verify", tmp_path / "output").splitlines())
    run_.shard(4).write_bytes(b"")
    lines = run("verify", tmp_path / "output", code=2).splitlines()
    assert [line for line in lines if line.startswith("wrong")] == [
        f"wrong {run_.shard(4)}: the file is empty"
    ]
    assert not all(one["ok"] for one in json.loads(run("verify", tmp_path / "output", "--json", code=2)))


def test_errors_of_the_files_are_ours(tmp_path):
    (tmp_path / "a.ckpt").write_bytes(b"PK")
    for words in (
        ("inspect", tmp_path / "none"),
        ("inspect", tmp_path / "a.ckpt"),
        ("verify", tmp_path / "none"),
        ("diff", tmp_path / "a.ckpt", tmp_path / "a.ckpt"),
        ("combine", "--checkpoint-dir", tmp_path, "-o", tmp_path / "b.ckpt"),
        ("split", tmp_path / "a.ckpt", "--strategy", tmp_path, "-o", tmp_path / "b"),
    ):
        with pytest.raises(CheckpointError):
            run(*words)


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("1.5 M", 1_500_000), ("4GiB", 4 << 30), ("123", 123), ("2k", 2000)],
)
def test_sizes_as_they_are_written(text, size):
    assert ByteSize().convert(text, None, None) == size


@pytest.mark.parametrize(
    ("size", "text"), [(999, "999 B"), (1000, "1.00 kB"), (99_960, "100 kB"), (1_068_000_000, "1.07 GB")]
)
def test_sizes_as_they_are_shown(size, text):
    assert byte_size(size) == text


@pytest.mark.parametrize("text", ["", "0", "5PB", "-3", "GB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(Exception, match="is no size"):
        ByteSize().convert(text, None, None)


def test_combine_falls_back_to_an_older_step_with_a_word_where_shards_are_cut(tmp_path):
    old = saved(tmp_path / "output", steps=((1, 9), (1, 10)))
    for rank in (0, 2):
        path = old.shard(rank, step=10)
        path.write_bytes(path.read_bytes()[:-5])
    text = run("combine", "--checkpoint-dir", tmp_path / "output", "-o", tmp_path / "a.ckpt")
    assert "is newer but not complete" in text and "epoch 1 step 9 was taken" in text
    assert f"{old.shard(0, step=10)}: is damaged" in text
    assert f"{tmp_path}/a.ckpt: step 9, 10 tensors" in text


def test_a_number_between_bounds_is_a_number() -> None:
    """What is no number is not below its bound either: a tolerance of that kind finds no difference."""
    assert Number(min=0).convert("1e-3", None, None) == 1e-3
    for text in ("nan", "NaN", "-nan", "-1", "x"):
        with pytest.raises(click.BadParameter):
            Number(min=0).convert(text, None, None)
