"""The writer of `docs/reference/`: every key of the YAML files and every command, as the code has them.

    make docs

A test fails where a page is not what this writes (`tests/test_reference.py`).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import click
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from model.__main__ import _parser
from orchestrator.cli.main import cli
from orchestrator.config.container import Container
from orchestrator.config.inventory import Host
from orchestrator.config.inventory_file import InventoryFile
from orchestrator.config.job import Job, Networking
from orchestrator.config.job_fields import FILLED_IN
from orchestrator.config.schema import Check, Limits, written_name
from orchestrator.config.worker_config import WorkerConfig

__all__ = ["PAGES", "write"]

FOLDER = Path(__file__).parent / "reference"
_REQUIRED = "required"
_NAMES = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`", Any: "any"}
_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


# What a key takes.


def _kind(hint: Any) -> str:
    """A type in words: `whole number > 0`, `list of text`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _marked(args[0], args[1:])
    if origin in (Union, UnionType):
        return ", or ".join(_kind(item) for item in args if item is not NoneType)
    if origin is Literal:
        return ", ".join(f"`{item}`" for item in args)
    if origin is tuple:
        return "list" if _section(args[0]) else f"list of {_kind(args[0])}"
    if origin is dict:
        return "mapping"
    return _NAMES.get(hint, "section")


def _marked(hint: Any, marks: tuple[Any, ...]) -> str:
    nouns = [mark.noun for mark in marks if isinstance(mark, Check) and mark.noun]
    limits = [mark.given for mark in marks if isinstance(mark, Limits)]
    words = [nouns[0] if nouns else _kind(hint)]
    words += [
        " and ".join(f"{_SIGNS[name]} {limit}" for name, limit in given.items()) for given in limits if given
    ]
    return " ".join(words)


def _section(hint: Any) -> Any:
    """The section that a key holds, or a list of which; None where it holds a value."""
    if is_dataclass(hint) or (isinstance(hint, type) and issubclass(hint, BaseModel)):
        return hint
    parts = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
    return next((found for found in map(_section, parts) if found), None)


# What it is without being written.


def _default(value: Any) -> str:
    if value in (MISSING, PydanticUndefined):
        return _REQUIRED
    if is_dataclass(value) or isinstance(value, BaseModel):
        return ""
    if isinstance(value, bool) or value is None:
        return f"`{str(value).lower().replace('none', 'null')}`"
    if isinstance(value, (int, float)):
        return f"`{value!r}`".replace(".0`", "`").replace("e-0", "e-")
    if isinstance(value, (tuple, dict)):
        return f"`{', '.join(value)}`" if value else "none"
    return f"`{value}`" if value else "empty"


def _keys(section: Any) -> Iterator[tuple[str, Any, Any, str]]:
    """Name, type, default, meaning of each key."""
    hints = get_type_hints(section, include_extras=True)
    if is_dataclass(section):
        for item in fields(section):
            default = item.default if item.default_factory is MISSING else item.default_factory()
            yield written_name(item), hints[item.name], default, item.metadata.get("description", "")
        return
    for name, info in section.model_fields.items():
        default = info.get_default(call_default_factory=True)
        yield info.alias or name, hints[name], default, info.description or ""


def _meaning(hint: Any, given: str) -> str:
    """The description of a key, the text among its type's marks, or what its section is for."""
    if given:
        return given
    if get_origin(hint) is Annotated:
        return next((mark for mark in get_args(hint)[1:] if isinstance(mark, str)), "")
    if section := _section(hint):
        return _first_sentence(section.__doc__)
    return next((text for text in (_meaning(part, "") for part in get_args(hint)) if text), "")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _first_sentence(text: str | None) -> str:
    text = " ".join((text or "").split("\n\n")[0].split())
    return text[:1].lower() + text[1:].rstrip(".")


def _table(section: Any, own: type | None = None) -> Iterator[str]:
    """The rows of a section; `own` has the defaults of keys that are null where nobody says otherwise."""
    yield "| key | what it takes | default | meaning |"
    yield "|---|---|---|---|"
    inherited = section.__bases__[0].model_fields if section.__name__ == "HostEntry" else ()
    for name, hint, default, meaning in _keys(section):
        if name in inherited:
            continue
        told = _meaning(hint, meaning)
        if not told:
            raise SystemExit(f"{section.__name__}.{name} has no meaning: describe it where it is defined")
        shown = _default(default)
        if own is not None and default is None:
            shown = next((_default(value) for key, _, value, _ in _keys(own) if key == name), "")
            shown = "" if shown in ("`null`", "none", "empty", _REQUIRED) else shown
        if shown == _REQUIRED and section in (Job, Networking):
            shown = FILLED_IN.get(name, shown)
        inner = _section(hint)
        kind = (
            f"[{'list of ' if _kind(hint) == 'list' else ''}keys](#{name})"
            if _has_page(inner)
            else _kind(hint)
        )
        yield f"| `{name}` | {kind} | {shown} | {_cell(told)} |"


def _cell(text: str) -> str:
    """Text that Markdown shows in a table as it is: no column ends, and no tag begins in it."""
    parts = text.replace("|", r"\|").split("`")
    return "`".join(part if index % 2 else part.replace("<", "&lt;") for index, part in enumerate(parts))


def _has_page(section: Any) -> bool:
    return section is not None and section.__name__ != "Device"


def _sections(top: Any, own: type | None = None) -> Iterator[str]:
    yield from _table(top, own)
    for name, hint, *_ in _keys(top):
        if _has_page(section := _section(hint)):
            yield from ("", f"## {name}", "", _sentence(_first_sentence(section.__doc__)), "")
            yield from _table(section, own)


# Command lines.


def _command(command: click.Command, words: str) -> Iterator[str]:
    context = click.Context(command, info_name=words, terminal_width=1000)
    yield from ("", f"## {words}", "", f"    {command.get_usage(context).removeprefix('Usage: ')}", "")
    yield _paragraphs(command.help)
    yield from [""] * (not isinstance(command, click.Group))
    options = [record for item in command.params if (record := item.get_help_record(context)) and record[1]]
    if options and not isinstance(command, click.Group):
        yield from _option_table(options)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _command(inner, f"{words} {name}")


def _paragraphs(text: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (text or "").strip().split("\n\n"))


def _option_table(options: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield "| option | meaning |"
    yield "|---|---|"
    for option, text in options:
        yield f"| {_cell(f'`{option}`')} | {_cell(text)} |"


def _model_commands() -> Iterator[str]:
    (verbs,) = (item for item in _parser()._actions if isinstance(item, argparse._SubParsersAction))
    helps = {item.dest: item.help for item in verbs._choices_actions}
    for name, parser in verbs.choices.items():
        yield from ("", f"## python -m model {name}", "", _sentence(str(helps[name])), "")
        yield from _option_table((_words_of(item), item.help or "") for item in parser._actions[1:])


def _words_of(item: argparse.Action) -> str:
    takes = f"{{{','.join(map(str, item.choices))}}}" if item.choices else item.metavar or item.dest.upper()
    words = ", ".join(item.option_strings) or str(takes)
    return f"{words} {takes}" if item.option_strings and item.nargs != 0 else words


def _exit_codes() -> Iterator[str]:
    found = re.search(r"Exit codes: (.*?)\.", " ".join((cli.help or "").split()))
    assert found is not None, "the help of `orchestrate` tells the exit codes"
    yield "| exit code | meaning |"
    yield "|---|---|"
    for item in found[1].split(", "):
        code, _, meaning = item.partition(" ")
        yield f"| {code} | {meaning} |"


# Pages.


def _page(title: str, source: str, *lines: str) -> str:
    head = f"<!-- Written by `make docs` from {source}: change it there. -->"
    return "\n".join([f"# {title}", "", head, "", *lines]).rstrip() + "\n"


def _job() -> str:
    about = (
        "A job is a YAML file of these keys; `orchestrate launch JOB --set train.steps=10` changes any of "
        "them for one launch. Relative paths start at the job file and are shipped to the hosts, absolute "
        "ones are looked for there."
    )
    return _page(
        "The job file", "orchestrator/config/job.py and worker_config.py", about, "", *_sections(Job)
    )


def _inventory() -> str:
    about = (
        "The hosts. `hosts` takes one entry for each host or range of hosts, with the keys of `defaults` "
        "where it differs. A rank table of ModelArts or MindCluster can stand for an inventory."
    )
    container = ("", "## container", "", _sentence(_first_sentence(Container.__doc__)), "")
    lines = (*_sections(InventoryFile, Host), *container, *_table(Container))
    return _page("The inventory", "orchestrator/config/inventory_file.py", about, "", *lines)


def _worker() -> str:
    about = (
        "What `python -m model train --config FILE` and its like read. `orchestrate launch` writes it from "
        "the job (`worker.yaml` in the run directory); it can be written by hand as well. Sections that the "
        "task does not need may be missing or null; without `data`, the model's own `seq_length` holds."
    )
    return _page(
        "A worker's configuration",
        "orchestrator/config/worker_config.py",
        about,
        "",
        *_sections(WorkerConfig),
    )


def _cli() -> str:
    source = "the commands themselves"
    return _page("Commands", source, *_exit_codes(), *_command(cli, "orchestrate"), *_model_commands())


PAGES = {"job.md": _job, "inventory.md": _inventory, "worker-config.md": _worker, "cli.md": _cli}


def write() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write()
