"""The documents are true: links lead somewhere, commands parse, YAML is valid, screens are as printed."""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from io import StringIO
from pathlib import Path

import click
import pytest
import yaml
from rich.console import Console

from orchestrator.cli.live_view import live_view
from orchestrator.cli.main import cli
from orchestrator.cli.render_run import status_view
from orchestrator.cli.sentences import go_on_note
from orchestrator.config.inventory import Host
from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job import Job
from orchestrator.config.job_file import load_job
from orchestrator.control.run_record import read_record
from orchestrator.core.paths import ControlDir

ROOT = Path(__file__).parents[1]
README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
# A log of what was: its commands may be gone.
TODAY = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]

# Named in the documents as what a user may have, a run has on its hosts, or an example makes.
NOT_HERE = {"inventory/default.yaml", "orchestrator/cli/cmd_uptime.py"}
MADE_UP = "uptime"  # the command of docs/extending.md
# What a part of a job in the documents is completed with, by the sections that it has.
TRAINING = {
    "name": "part",
    "task": "finetune",
    "devices_per_host": 8,
    "model": {"preset": "tiny"},
    "data": {"path": "data.json"},
    "train": {"steps": 1},
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


each_document = pytest.mark.parametrize("path", TODAY, ids=name_of)


@functools.cache
def text_of(path: Path) -> str:
    return path.read_text()


def fenced(path: Path, language: str | None = None) -> list[str]:
    """The texts of fenced blocks, without the indent that they have in a list."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", text_of(path), re.MULTILINE | re.DOTALL)
    return [
        re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)
        for indent, kind, text in found
        if language in (None, kind)
    ]


def prose_of(path: Path) -> str:
    """The document without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", text_of(path), flags=re.MULTILINE | re.DOTALL)


def indented(path: Path) -> list[str]:
    """Each line of the indented blocks, in which commands stand; not of drawings, which have columns."""
    lines: list[str] = re.findall(r"^    (\S.*)$", prose_of(path), re.MULTILINE)
    return [line for line in lines if not re.search(r" {3,}[^ #]", line)]


def inline(path: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose_of(path))


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", prose_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(path)):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def commands(path: Path, program: str) -> Iterator[tuple[list[str], bool]]:
    """The words behind `program`, and whether they are meant to be typed as they stand."""
    for line in indented(path):
        if line.startswith(f"{program} ") and "[OPTIONS]" not in line:  # a usage line
            yield shlex.split(line, comments=True)[len(program.split()) :], True
    for code in inline(path):
        if re.match(rf"{program} (?!VERB|{MADE_UP})", code) and "…" not in code:
            yield shlex.split(code)[len(program.split()) :], False


def parse(words: list[str], is_complete: bool) -> None:
    """As click would before it runs a command. Raises what click says of a wrong one."""
    command: click.Command = cli
    context = click.Context(cli, info_name="orchestrate")
    if words[0].startswith("-"):
        cli.make_parser(context).parse_args(list(words))
        return
    while isinstance(command, click.Group) and words:
        if command.invoke_without_command and words[0].startswith("-"):
            command.make_parser(context).parse_args(list(words))
            return
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, parent=context)
    if isinstance(command, click.Group):
        assert command.invoke_without_command or not is_complete
        return
    try:
        command.make_context(command.name, list(words), parent=context.parent)
    except click.MissingParameter:
        assert not is_complete


@each_document
def test_commands_parse(path: Path) -> None:
    for words, is_complete in commands(path, "orchestrate"):
        try:
            parse(words, is_complete)
        except click.ClickException as error:
            raise AssertionError(f"orchestrate {shlex.join(words)}: {error.format_message()}") from None


def test_a_wrong_command_would_be_found() -> None:
    for line in ("launch job.yaml --no-such-option", "no-such-verb", "collect-ckpt --format docx"):
        with pytest.raises(click.ClickException):
            parse(line.split(), True)


@functools.cache
def help_of(*argv: str) -> str:
    env = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *argv, "--help"], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    ).stdout


@each_document
def test_options_of_the_model_exist(path: Path) -> None:
    for words, _ in commands(path, "python -m model"):
        text = help_of("-m", "model", words[0])
        for option in (word for word in words[1:] if re.match(r"--?[a-z]", word)):
            assert re.search(rf"(?<!\S){option}(?![\w-])", text), f"python -m model {words[0]} {option}"


@each_document
def test_options_of_scripts_exist(path: Path) -> None:
    for line in [*indented(path), *inline(path)]:
        if script := re.search(r"(?<![\w/])(?:bench|examples|model)/\w+\.py", line):
            source = (ROOT / script[0]).read_text()
            for option in re.findall(r"(?<!\S)--[a-z][\w-]*", line):
                assert f'"{option}"' in source, f"{script[0]} {option}"


@each_document
def test_targets_of_make_exist(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for code in [*indented(path), *inline(path)]:
        for target in re.findall(r"^make ([a-z][\w-]*)", code):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


@each_document
def test_paths_exist(path: Path) -> None:
    rooms = "jobs|inventory|bench|examples|tests|docs|orchestrator|model|\\.ci"
    for code in [*indented(path), *inline(path)]:
        for found in re.findall(rf"(?<![\w/.-])(?:{rooms})/[\w./*-]*", code):
            assert any(ROOT.glob(found.rstrip("/."))) or found in NOT_HERE, found


@each_document
def test_yaml_is_a_job_an_inventory_or_a_part_of_a_job(path: Path, tmp_path: Path) -> None:
    for text in fenced(path, "yaml"):
        data = yaml.safe_load(text)
        file = tmp_path / "written.yaml"
        if isinstance(data.get("hosts"), list) and "task" not in data:
            file.write_text(text)
            load_inventory(file)
            continue
        assert set(data) <= set(Job.model_fields), text
        job = text if "task" in data else yaml.safe_dump({**TRAINING, **data})
        for name in re.findall(r"(?<![\w/.-])[\w.-][\w./-]*\.(?:py|ckpt|json|yaml)\b", job):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        file.write_text(job)
        load_job(file)


def test_every_key_of_a_job_and_of_a_host_is_in_the_documents() -> None:
    texts = [text for path in TODAY for text in (*inline(path), *fenced(path, "yaml"))]
    named = {word for text in texts for word in re.findall(r"\w+", text)}
    assert {*(item.name for item in fields(Host)), *Job.model_fields} <= named


def screen(view: object) -> list[str]:
    """What is printed on a terminal of 80 columns, without the part of the bar that only colour tells."""
    out = StringIO()
    Console(file=out, width=80, no_color=True).print(view, highlight=False)
    return [_barless(line) for line in out.getvalue().rstrip().splitlines()]


def _barless(line: str) -> str:
    return re.sub(r"^[━╸╺ ]+(?= step )", "", line).rstrip()


def _without_times(lines: list[str]) -> list[str]:
    return [re.sub(r" at \d\d:\d\d:\d\d$", " at TIME", line) for line in lines]


@pytest.mark.parametrize("readme", [README, CHINESE], ids=name_of)
def test_screens_are_what_is_printed(readme: Path) -> None:
    """The records are of the run that the screens are of; a lone `…` stands for lines that are left out."""
    running = read_record(ControlDir(ROOT / "tests/screens/running"))
    failed = read_record(ControlDir(ROOT / "tests/screens/failed"))
    wanted = [
        screen(live_view(running, now=running.updated)),
        [*screen(status_view(failed)), go_on_note(failed)],
    ]
    shown = [[_barless(line) for line in text.splitlines()] for text in fenced(readme, "")]
    for printed, told in zip(map(_without_times, wanted), map(_without_times, shown), strict=True):
        pattern = "\n".join(".*" if line == "  …" else re.escape(line) for line in told)
        assert re.fullmatch(pattern, "\n".join(printed), re.DOTALL), "\n".join(printed)


def test_the_readme_is_short() -> None:
    for path in (README, CHINESE):
        assert len(text_of(path).splitlines()) <= 150, path


def test_the_chinese_readme_says_the_same() -> None:
    """Same headings, commands, screens, tables and links; comments behind commands are translated."""

    def shape(path: Path) -> dict[str, object]:
        text = prose_of(path)
        codes = [re.sub(r"\s+# .*$", "", line) for line in indented(path)]
        links = re.findall(r"\]\(([^)]+)\)", text)
        return {
            "headings": re.findall(r"^#+", text, re.MULTILINE),
            "commands": codes,
            "screens": fenced(path),
            "rows of tables": len(re.findall(r"^\|", text, re.MULTILINE)),
            "exit codes": re.findall(r"^\| (\d+) \|", text, re.MULTILINE),
            "links": sorted(link for link in links if not link.startswith("README")),
            "steps": len(re.findall(r"^\*\*\d", text, re.MULTILINE)),
        }

    assert shape(CHINESE) == shape(README)
