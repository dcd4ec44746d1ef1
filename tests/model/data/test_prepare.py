from __future__ import annotations

import json
import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import mindspore.dataset as ds
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore.mindrecord import FileWriter

from model.__main__ import main
from model.config.load_config import load_config
from model.config.prompt_templates import wrap
from model.config.settings import load_settings
from model.data.dataset import load_data
from model.data.encode_records import Encoder, encoder_processes, in_order, processes, texts_of
from model.data.mindrecord import read_rows
from model.data.prepare import OPEN_ROWS, Packer, Request, prepare
from model.data.records import load_records
from model.data.tokenizer import train_tokenizer
from model.errors import ModelError
from tests.model.support.cluster import ROOT, run_alone, write_job

DEMO = ROOT / "jobs/data/demo.json"
CONFIG = load_config("tiny", {"seq_length": 64})
EOS = CONFIG.eos_token_id


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(texts_of(load_records(DEMO), "alpaca"), CONFIG)


@pytest.fixture(scope="module")
def here(tokenizer, tmp_path_factory) -> Request:
    """Everything in this process: starting others costs seconds."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(tokenizer.to_json())
    return Request(input=DEMO, output=Path(), tokenizer=path, length=65, workers=0)


@pytest.fixture(scope="module")
def prepared(here, tmp_path_factory):
    """The demo's records, and what the summary said of them."""
    folder = tmp_path_factory.mktemp("prepared")
    return folder, prepare(replace(here, output=folder))


def as_mindformers_reads(*files: Path) -> np.ndarray:
    rows = ds.MindDataset([str(file) for file in files], columns_list=["input_ids"], shuffle=False)
    return np.stack([row["input_ids"] for row in rows.create_dict_iterator(1, output_numpy=True)])


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_encoders_make_way_in_processes_of_their_own_only(tokenizer):
    encoder, before = Encoder(tokenizer, "alpaca", False, 65, splits=False), os.nice(0)
    with encoder_processes(encoder, 0) as here, encoder_processes(encoder, 1) as apart:
        assert here.submit(os.nice, 0).result() == before
        assert apart.submit(os.nice, 0).result() == min(19, before + 3)


def test_rows_are_those_of_make_mindrecord(prepared, tokenizer):
    folder, summary = prepared
    rows = as_mindformers_reads(folder / "dataset.mindrecord")
    assert rows.dtype == np.int64 and rows.shape == (263, 65)
    for row, record in zip(rows, json.loads(DEMO.read_text()), strict=True):
        prompt = [-item for item in tokenizer.encode(wrap(record["instruction"], record.get("input", "")))]
        ids = [*prompt, *tokenizer.encode(record["output"])]
        assert list(row) == (ids + [EOS] * 65)[:65]
    data = ["dataset.mindrecord", "dataset.mindrecord.db", "dataset.mindrecord.summary.json"]
    assert left_in(folder) == [*data, "tokenizer.json"]
    made = json.loads((folder / data[2]).read_text())
    assert made["tokenizer_sha256"] == sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    assert (made["rows"], made["template"]) == (263, "alpaca")
    assert summary.records == summary.rows == 263 and not summary.bad and not summary.skipped
    filled = np.argmax(rows[:, ::-1] != EOS, 1)  # eos at the end of each row, one of which is the answer's
    assert summary.tokens == (65 - filled + (filled > 0)).sum()
    assert summary.padding == pytest.approx(1 - summary.tokens / rows.size)
    assert summary.longest == (65 - filled + 1).max()


def test_a_run_learns_the_same_from_mindrecord_as_from_the_records(prepared, here, tmp_path):
    folder, _ = prepared
    from_json = load_data(load_settings(write_job(tmp_path, data={"limit": 40})), CONFIG)
    given = {"path": str(DEMO), "tokenizer": str(here.tokenizer), "limit": 40}
    expected, _ = load_data(load_settings(write_job(tmp_path, data=given)), CONFIG)
    for path in (folder, folder / "dataset.mindrecord"):
        job = write_job(tmp_path, data={"path": str(path), "limit": 40})
        data, tokenizer = load_data(load_settings(job), CONFIG)
        np.testing.assert_array_equal(data.ids, expected.ids)
        assert tokenizer.to_json() == here.tokenizer.read_text()
    assert len(from_json[0]) == 40


def test_processes_and_shards_give_the_same_rows(prepared, here, tmp_path):
    words = ["prepare-data", "--input_dataset_file", str(DEMO), "--output_path", str(tmp_path / "out")]
    words += ["--tokenizer", str(here.tokenizer), "--seq_length", "65", "--N", "-1"]
    done = run_alone(tmp_path, *words, "--shards", "2", "--workers", "2")
    assert done.returncode == 0, done.stderr
    files = [tmp_path / "out" / f"dataset-0000{index}-of-00002.mindrecord" for index in (0, 1)]
    assert "263 rows of 65 ids" in done.stdout and all(f"wrote {file}" in done.stdout for file in files)
    assert [len(as_mindformers_reads(file)) for file in files] == [256, 7]
    expected = as_mindformers_reads(prepared[0] / "dataset.mindrecord")
    np.testing.assert_array_equal(as_mindformers_reads(*files), expected)
    np.testing.assert_array_equal(read_rows(tmp_path / "out", CONFIG), expected)


def test_what_was_prepared_is_told_as_data(here, tmp_path, capsys):
    words = ["prepare-data", "--input", str(DEMO), "--output", str(tmp_path / "out"), "--seq-length", "65"]
    words += ["--tokenizer", str(here.tokenizer), "--limit", "5", "--workers", "0", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    file = tmp_path / "out" / "dataset.mindrecord"
    assert told["files"] == [str(file)] and told["bytes"] == file.stat().st_size
    assert (told["records"], told["rows"], told["seq_length"], told["bad"]) == (5, 5, 65, [])


def test_packed_rows_hold_every_record_once(here, prepared, tmp_path):
    summary = prepare(replace(here, output=tmp_path / "packed.mindrecord", pack=True, length=513))
    rows = as_mindformers_reads(tmp_path / "packed.mindrecord")
    assert summary.padding < 0.1 < prepared[1].padding and summary.rows == len(rows)
    assert summary.tokens >= prepared[1].tokens

    def records(rows):
        """Prompt and answer of each record: a prompt is where the ids turn negative."""
        flat = [int(item) for row in rows for item in row]
        starts = [at for at in range(len(flat)) if flat[at] < 0 and (at == 0 or flat[at - 1] > 0)]
        parts = [flat[start:stop] for start, stop in zip(starts, [*starts[1:], None], strict=True)]
        return sorted(part[: part.index(EOS) + 1] for part in parts)

    single = prepare(replace(here, output=tmp_path / "single", length=513))
    assert records(rows) == records(as_mindformers_reads(*single.files))


def test_long_documents_are_split_when_packed_and_cut_when_not(here, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("Milk is white. " * 40 + "\n\nRose.\n")
    cut = prepare(replace(here, input=path, output=tmp_path / "cut"))
    assert (cut.records, cut.rows, cut.cut) == (2, 2, 1)
    packed = prepare(replace(here, input=path, output=tmp_path / "packed", pack=True))
    assert packed.cut == 0 and packed.tokens > cut.tokens
    rows = as_mindformers_reads(*packed.files)
    assert (rows > 0).all() and packed.longest > 65 * (packed.rows - 1)


def test_bad_records_are_counted_and_with_strict_fatal(here, tmp_path):
    path, record = tmp_path / "some.json", {"instruction": "Say it.", "output": "It."}
    path.write_text(
        json.dumps([record, 7, record, {"instruction": "a"}, {**record, "instruction": "w " * 99}])
    )
    summary = prepare(replace(here, input=path, output=tmp_path / "out"))
    assert [index for index, _ in summary.bad] == [1, 3] and summary.skipped == [4]
    assert summary.bad[0][1] == "must be a table, not int" and (summary.records, summary.rows) == (5, 2)
    with pytest.raises(ModelError, match=r"some\.json: record 1: must be a table, not int"):
        prepare(replace(here, input=path, output=tmp_path / "strict", strict=True))
    assert left_in(tmp_path / "strict") == []


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        ('[{"instruction": "a", "output": "b"}', {}, "is no JSON"),
        ("[1, 2]", {}, "none of its 2 records could be used (record 0 must be a table, not int)"),
        ("[]", {}, "none of its 0 records could be used"),
        ('{"text": "a"}', {"shards": 2}, "1 rows are too few for 2 files of 256 rows each (lower --shards)"),
        (
            '{"text": "a"}',
            {"shards": 0, "length": 1},
            "shards must be at least 1; seq_length must be at least 2",
        ),
        ('{"text": "a"}', {"limit": 0}, "N must be at least 1, or -1 for all, not 0"),
        ('{"text": "a"}', {"tokenizer": Path("none.json")}, "none.json: the tokenizer cannot be read"),
        ('{"text": "a"}', {"input": Path("none")}, "none: cannot be read"),
        ("", {}, "is empty"),
    ],
)
def test_what_cannot_be_used_leaves_nothing(here, tmp_path, content, changes, message):
    path = tmp_path / "in"
    path.write_text(content)
    with pytest.raises(ModelError) as caught:
        prepare(replace(here, **{"input": path, "output": tmp_path / "out", **changes}))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert left_in(tmp_path / "out") == []


def test_files_that_are_there_are_kept_until_the_new_ones_are_whole(here, tmp_path):
    path, output = tmp_path / "in", tmp_path / "out"
    path.write_text('{"text": "first"}')
    prepare(replace(here, input=path, output=output))
    before = as_mindformers_reads(output / "dataset.mindrecord")
    with pytest.raises(ModelError, match=r"dataset\.mindrecord: is there already \(see --overwrite\)"):
        prepare(replace(here, input=path, output=output))
    path.write_text('[{"text": "second"}, ')
    with pytest.raises(ModelError, match="is no JSON"):
        prepare(replace(here, input=path, output=output, overwrite=True))
    np.testing.assert_array_equal(as_mindformers_reads(output / "dataset.mindrecord"), before)
    path.write_text('{"text": "second"}')
    prepare(replace(here, input=path, output=output, overwrite=True))
    assert not np.array_equal(as_mindformers_reads(output / "dataset.mindrecord"), before)
    assert len(left_in(output)) == 4


def test_another_tokenizer_does_not_replace_the_one_that_data_was_made_with(here, prepared, tmp_path):
    other = tmp_path / "tokenizer.json"
    other.write_text(train_tokenizer(["quite different"], CONFIG).to_json())
    asked = replace(here, tokenizer=other, output=prepared[0] / "more.mindrecord", overwrite=True)
    with pytest.raises(
        ModelError, match=r"tokenizer\.json: is there already and is another tokenizer .*dataset"
    ):
        prepare(asked)
    # Used with another tokenizer, the data is refused; the job's own file of the same content is not.
    data = {"path": str(prepared[0] / "dataset.mindrecord"), "limit": 4}
    job = write_job(tmp_path / "job", data={**data, "tokenizer": str(other)})
    with pytest.raises(ModelError, match=r"dataset\.mindrecord: was made with another tokenizer than"):
        load_data(load_settings(job), CONFIG)
    job = write_job(tmp_path / "job", data={**data, "tokenizer": str(here.tokenizer)})
    assert len(load_data(load_settings(job), CONFIG)[0]) == 4


def test_turns_before_a_question_stand_before_it(here, tokenizer, tmp_path, capsys):
    path = tmp_path / "turns.json"
    path.write_text(json.dumps([{"instruction": "And?", "output": "B", "history": [["Hi", "A"]], "id": 7}]))
    summary = prepare(replace(here, input=path, output=tmp_path / "out", template="belle", length=120))
    job = write_job(tmp_path, data={"path": str(tmp_path / "out"), "seq_length": 119})
    load_data(load_settings(job), load_config("tiny", {"seq_length": 119}))
    assert "was prepared with template belle, but data.template is alpaca" in capsys.readouterr().err
    (row,) = as_mindformers_reads(*summary.files)
    prompt = tokenizer.encode("Human: Hi \n\nAssistant:A\n\nHuman: And? \n\nAssistant:")
    assert list(-row[: len(prompt)]) == prompt and row[len(prompt)] > 0
    assert summary.unread == "not read: 'id' of 1 records"


def write_rows(path: Path, rows: list[list[int]]) -> Path:
    writer = FileWriter(str(path), 1)
    writer.add_schema({"input_ids": {"type": "int64", "shape": [-1]}}, "lm-schema")
    writer.write_raw_data([{"input_ids": np.array(row, np.int64)} for row in rows])
    writer.commit()
    return path


def test_mindrecord_that_cannot_be_used_is_named(prepared, tmp_path):
    good = [5] * 65
    with pytest.raises(
        ModelError, match=r"a\.mindrecord: record 1: holds id 600, but the vocabulary has 512"
    ):
        read_rows(write_rows(tmp_path / "a.mindrecord", [good, [-600] * 65]), CONFIG)
    with pytest.raises(
        ModelError, match=r"has rows of 33 ids, seq_length 64 needs 65 \(set data.seq_length to 32"
    ):
        read_rows(write_rows(tmp_path / "b.mindrecord", [good[:33]]), CONFIG)
    with pytest.raises(ModelError, match=r"b\.mindrecord\.db: there is no such file"):
        (tmp_path / "b.mindrecord.db").unlink()
        read_rows(tmp_path / "b.mindrecord", CONFIG)
    damaged = tmp_path / "dataset.mindrecord"
    damaged.write_bytes((prepared[0] / "dataset.mindrecord").read_bytes()[:1000])
    (tmp_path / "dataset.mindrecord.db").write_bytes((prepared[0] / "dataset.mindrecord.db").read_bytes())
    with pytest.raises(ModelError, match=r"dataset\.mindrecord: cannot be read as MindRecord: ") as caught:
        read_rows(damaged, CONFIG)
    assert "\n" not in str(caught.value) and "C++" not in str(caught.value)
    with pytest.raises(ModelError, match=r"holds no \.mindrecord file"):
        (tmp_path / "empty").mkdir()
        read_rows(tmp_path / "empty", CONFIG)


def test_mindrecord_without_a_tokenizer(prepared, tmp_path):
    moved = write_rows(tmp_path / "a.mindrecord", [[5] * 65])
    with pytest.raises(
        ModelError, match=r"data\.tokenizer: is missing, and there is no tokenizer\.json beside"
    ):
        load_data(load_settings(write_job(tmp_path, data={"path": str(moved)})), CONFIG)


@given(st.lists(st.integers(1, 20), max_size=300))
@settings(deadline=None)
def test_packing_loses_nothing_and_overfills_nothing(lengths):
    packer = Packer(20)
    sequences = [np.full(length, index) for index, length in enumerate(lengths)]
    rows = [row for sequence in sequences for row in packer.add(sequence)]
    rows += list(packer.rest())
    assert all(0 < len(row) <= 20 for row in rows)
    found = np.concatenate([*rows, []])
    assert [list(found).count(index) for index in range(len(lengths))] == lengths
    # Two rows that would have fitted into one are only left open at the very end.
    assert len(rows) <= max(1, 2 * sum(lengths) / 20 + OPEN_ROWS)


def _double(value: int) -> int:
    return 2 * value


def test_work_is_taken_in_bounded_steps_and_its_errors_come_through():
    taken = []

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    results = in_order(processes(0, taken.clear, ()), _double, items(), ahead=3)
    assert next(results) == 0 and len(taken) == 4
    assert list(results) == [2 * item for item in range(1, 100)]
    with pytest.raises(ZeroDivisionError):
        list(in_order(processes(0, taken.clear, ()), (1).__truediv__, [0], ahead=1))
