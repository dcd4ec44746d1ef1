from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile

import pytest

from orchestrator.formats.foreign_files import HEAD, describe_foreign, open_regular

TEXT = b"What is it? It is so. " * 40


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.json"))
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.json", "[]")
    return out.getvalue()


def told(value: object) -> str:
    """The part of a test's name that a value is: the same in every process, whatever the bytes are."""
    return value if isinstance(value, str) else "content"


@pytest.mark.parametrize(
    ("content", "name", "what"),
    [
        (gzip.compress(TEXT), "a", "is gzip"),
        (bz2.compress(TEXT), "a", "is bzip2"),
        (lzma.compress(TEXT), "a", "is xz"),
        (zipped(), "a", "is a zip archive"),
        (zipped(), "a.xlsx", "is an Excel sheet"),
        (tar(), "a", "is a tar archive"),
        (b"PAR1" + TEXT + b"PAR1", "a.json", "is Parquet"),
        (TEXT, "a.CSV", "is CSV"),
        (b'"Instruction";"Input";"Output"\n"a";"b";"c"\n', "a.txt", "is CSV"),
        (b"instruction\tinput\toutput\na\tb\tc\n", "a", "is CSV"),
        (TEXT, "a.json.gz", "is gzip"),
        (TEXT.decode().encode("utf-16"), "a.txt", "is UTF-16"),
        (TEXT + b"\0" + TEXT, "a.txt", "is binary"),
        (bytes(range(1, 256)) * 9, "a", "is binary"),
        (os.urandom(4096).replace(b"\0", b"\1"), "a.txt", "is binary"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 123\n",
            "a.json",
            "is a Git LFS pointer",
        ),
    ],
    ids=told,
)
def test_what_is_no_text_is_named(content, name, what) -> None:
    words = describe_foreign(content[:HEAD], name)
    assert words is not None and words[0].startswith(what) and words[1]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b'[{"instruction": "a", "output": "b"}]', "a.json"),
        (b'{"text": "instruction,output"}', "a.jsonl"),
        ("\ufeff一段\f\x1b[0m文字\n".encode(), "a.txt"),
        (TEXT + b"\x01" + TEXT, "a.txt"),
        ("naïve".encode("latin-1") + TEXT, "a"),  # each paragraph says whether it is UTF-8
        (b"PAR2, an instruction, and its output", "a"),
        (b"", "a"),
    ],
    ids=told,
)
def test_what_may_be_text_is_let_through(content, name) -> None:
    assert describe_foreign(content, name) is None


def test_only_a_file_is_opened_and_nothing_is_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, what in (
        (tmp_path / "pipe", "a pipe or a device"),
        (tmp_path, "a folder"),
        ("/dev/zero", "a pipe"),
    ):
        with pytest.raises(OSError, match=f"it is {what}"):
            open_regular(tmp_path / path)
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "file").write_text("x")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"x"
