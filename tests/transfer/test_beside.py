"""What stands beside an output, and what is at its place, is not replaced unless it is ours."""

import hashlib
import json
import os
import re

import pytest

from orchestrator.checkpoint.companion_files import BesideOutput, SmallFile, require_own_output
from orchestrator.core.errors import CheckpointError
from orchestrator.transfer.convert import plan_combine, write
from orchestrator.transfer.small_files import KNOWN, Spool
from tests.checkpoint.support import bloom, save_run
from tests.transfer.test_collect import collected

STRATEGIES = {"out.ckpt.strategy": KNOWN["strategy"]}


def beside(folder, folders=STRATEGIES, **files):
    named = {name.replace("__", "/").replace("_yaml", ".yaml"): data for name, data in files.items()}
    return BesideOutput(
        folder / "out.ckpt", {name: SmallFile.of(data) for name, data in named.items()}, folders
    )


def manifest(folder, source="run", size=3, **known):
    told = {name.replace("_yaml", ".yaml"): hashlib.sha256(data).hexdigest() for name, data in known.items()}
    head = {"source": source, "epoch": 1, "step": 10, "beside": told, "files": {"": size}}
    (folder / "out.ckpt.manifest.json").write_text(json.dumps({**head, "tensors": {}}, separators=(",", ":")))


def test_equal_files_stay_and_missing_ones_are_written(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"same")
    os.utime(tmp_path / "config.yaml", (1, 1))
    wanted = beside(tmp_path, config_yaml=b"same", tokenizer=b"t")
    put = wanted.put(wanted.require_free())
    assert (put.unchanged, put.written) == ((tmp_path / "config.yaml",), (tmp_path / "tokenizer",))
    assert (tmp_path / "config.yaml").stat().st_mtime == 1
    assert (tmp_path / "tokenizer").read_bytes() == b"t"


def test_another_models_files_are_named_and_stay(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"another model")
    (tmp_path / "other.ckpt").write_bytes(b"its weights")
    with pytest.raises(CheckpointError, match=r"config\.yaml in .* would be replaced"):
        beside(tmp_path, config_yaml=b"ours", tokenizer=b"t").require_free()
    assert sorted(os.listdir(tmp_path)) == ["config.yaml", "other.ckpt"]


def test_what_an_earlier_copy_put_there_is_replaced_unless_others_use_it(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"old")
    manifest(tmp_path, config_yaml=b"old")
    wanted = beside(tmp_path, config_yaml=b"new")
    assert wanted.put(wanted.require_free()).written == (tmp_path / "config.yaml",)
    manifest(tmp_path, config_yaml=b"new")
    (tmp_path / "other.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="would be replaced"):
        beside(tmp_path, config_yaml=b"newer").require_free()
    (tmp_path / "other.safetensors").unlink()
    (tmp_path / "config.yaml").write_bytes(b"edited by hand")
    with pytest.raises(CheckpointError, match="would be replaced"):
        beside(tmp_path, config_yaml=b"newer").require_free()


@pytest.mark.parametrize("thing", ["file", "folder", "link", "pipe"])
def test_a_folder_of_the_outputs_name_with_other_things_in_it_is_not_emptied(tmp_path, thing):
    folder = tmp_path / "out.ckpt.strategy"
    folder.mkdir()
    note = folder / "notes"
    make = {
        "file": note.touch,
        "folder": note.mkdir,
        "link": lambda: note.symlink_to("x"),
        "pipe": lambda: os.mkfifo(note),
    }
    make[thing]()
    manifest(tmp_path)
    with pytest.raises(CheckpointError, match=r"out\.ckpt\.strategy/notes in"):
        beside(tmp_path).require_free()
    assert os.path.lexists(note)


def test_a_folder_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "ckpt_strategy_rank_0.ckpt").write_bytes(b"x")
    (tmp_path / "out.ckpt.strategy").symlink_to("victim")
    with pytest.raises(CheckpointError, match="a symbolic link"):
        beside(tmp_path).require_free()


def test_our_files_of_an_earlier_copy_go_also_where_an_older_version_listed_none(tmp_path):
    folder = tmp_path / "out.ckpt.strategy"
    folder.mkdir()
    (folder / "ckpt_strategy_rank_7.ckpt").write_bytes(b"of more ranks")
    with pytest.raises(CheckpointError, match="rank_7"):
        beside(tmp_path).require_free()
    manifest(tmp_path)
    wanted = beside(tmp_path, **{"out.ckpt.strategy__ckpt_strategy_rank_0.ckpt": b"s"})
    put = wanted.put(wanted.require_free())
    assert [path.name for path in put.removed] == ["ckpt_strategy_rank_7.ckpt"]
    assert os.listdir(folder) == ["ckpt_strategy_rank_0.ckpt"]


def test_the_name_of_a_file_beside_it_is_no_name_for_the_output(tmp_path):
    wanted = BesideOutput(tmp_path / "config.yaml", {"config.yaml": SmallFile.of(b"")})
    with pytest.raises(CheckpointError, match="belongs beside it"):
        wanted.require_free()


def test_only_what_was_collected_from_the_same_run_is_replaced(tmp_path):
    output = tmp_path / "out.ckpt"
    require_own_output(output, "run")
    output.write_bytes(b"abc")
    with pytest.raises(CheckpointError, match="no file that was collected"):
        require_own_output(output, "run")
    manifest(tmp_path)
    require_own_output(output, "run")
    with pytest.raises(CheckpointError, match="step 10 of run"):
        require_own_output(output, "another")
    output.write_bytes(b"abcd")
    with pytest.raises(CheckpointError, match="no file that was collected"):
        require_own_output(output, "run")
    (tmp_path / "out.ckpt.manifest.json").write_text("my own notes")
    with pytest.raises(CheckpointError, match="no manifest of ours"):
        require_own_output(output, "run")


def test_collecting_does_not_replace_a_file_of_the_users_and_replaces_its_own(tmp_path):
    run = save_run(tmp_path / "run", [bloom(2, 2)])
    (tmp_path / "a.ckpt").write_bytes(b"precious")
    with pytest.raises(CheckpointError, match="is there already"):
        collected(run, tmp_path / "a.ckpt")
    assert (tmp_path / "a.ckpt").read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "run"]
    for _ in range(2):
        collected(run, tmp_path / "b.ckpt")


def test_combining_replaces_only_a_checkpoint_of_the_same_tensors(tmp_path):
    save_run(tmp_path / "run", [bloom(1, 2)], hosts=("checkpoint",))
    conversion = plan_combine(tmp_path / "run", None)
    for _ in range(2):
        write(conversion, tmp_path / "a.ckpt")
    (tmp_path / "b.ckpt").write_bytes(b"precious")
    os.mkfifo(tmp_path / "c.ckpt")
    everything = plan_combine(tmp_path / "run", None, with_optimizer=True)
    for path, plan in (("b.ckpt", conversion), ("c.ckpt", conversion), ("a.ckpt", everything)):
        with pytest.raises(CheckpointError, match="holds something else"):
            write(plan, tmp_path / path)
    assert (tmp_path / "b.ckpt").read_bytes() == b"precious"


def test_pieces_become_files_once_each_and_large_ones_wait_on_the_disk(tmp_path):
    large = [os.urandom(1 << 20) for _ in range(3)]
    pieces = [("a", piece) for piece in large] + [(None, b""), ("b", b"x"), ("empty", b"")]
    spool = Spool(tmp_path)
    files, odd = spool.take(pieces)
    again, _ = spool.take(pieces)
    assert odd == 1 and [file.size for file in files.values()] == [3 << 20, 1, 0]
    assert again["a"] is files["a"]
    for _ in range(2):
        assert files["a"].content() == b"".join(large)
    assert not os.listdir(tmp_path)  # without a name
    assert re.fullmatch("[0-9a-f]{64}", files["empty"].sha256)
