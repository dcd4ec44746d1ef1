"""The terminal's door: what comes from outside is shown and not obeyed, in every view, encoding and error."""

from __future__ import annotations

import ast
import dataclasses
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import pytest
from rich.console import RenderableType

from orchestrator.cli.bars import CollectProgress
from orchestrator.cli.live_view import PlainReport, live_view
from orchestrator.cli.log_printer import LogPrinter, folded_data, line_data
from orchestrator.cli.main import cli, run
from orchestrator.cli.options import print_json
from orchestrator.cli.render_checkpoint import diff_view
from orchestrator.cli.render_rank_table import devices_view, print_whole, servers_view
from orchestrator.cli.render_ranks import folded_view, ranks_view
from orchestrator.cli.render_report import print_report
from orchestrator.cli.render_run import record_json, runs_table, status_view, summary
from orchestrator.cli.scroll_view import ScrollView
from orchestrator.cli.terminal import Console
from orchestrator.control.log_fold import FoldedLine
from orchestrator.control.log_stream import LogBatch, LogLine
from orchestrator.control.run_record import Cause, HostView, RunRecord
from orchestrator.core.ends import End, EndKind, StopKind, StopReason
from orchestrator.core.errors import AgentError, ConnectError, HostsFailed, RunFailed
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import HostStatus, RankStatus
from orchestrator.core.states import RankState, RunState
from orchestrator.core.visible_text import RawStream, VisibleStream, only_visible_text
from orchestrator.preflight.report import Level, Report, Result
from orchestrator.rank_table.read_table import parse_rank_table
from orchestrator.transfer.inspect import Difference
from tests.rank_table.support import table

HOSTILE = [
    "\x1b[2J\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b]52;c;ZWNobyBwd25lZA==\x07",
    "[/x] [bold] [link=http://x]here",
    "[/]",
    ":smile: \\[bold]",
    "\x9b31m\x85\x7f\x00\x08\x0b",
    "one\rtwo",
    "\u202eright to left\u2066",
    "\ud800 half",
    "\N{LINE SEPARATOR}\N{ZERO WIDTH SPACE}",
]


def outside(text: str) -> RunRecord:
    """A run all of whose texts are this one."""
    end = End(EndKind.EXITED, exit_code=3, tail=(text, text), message=text)
    stopped = End(EndKind.STOPPED, reason=StopReason(StopKind.REQUESTED, host=text, text=text))
    ranks = (
        RankStatus(0, 0, 0, RankState.FAILED, end=end, progress={"step": 1, "loss": 1.5}),
        RankStatus(1, 1, 1, RankState.STOPPED, end=stopped),
    )
    views = {
        f"h{text}": HostView(HostStatus("run", text, "h", 0.0, ranks)),
        text: HostView(error=text),
    }
    return RunRecord(
        run_id=f"run-{text}",
        job=text,
        task=text,
        world_size=2,
        created=0.0,
        state=RunState.FAILED,
        phase=text,
        ended=9.0,
        hosts=views,
        cause=Cause(text, 0, end, 0.0),
        victims=(1,),
        errors=(text,),
        exit_code=1,
        warnings=(text,),
    )


def report(text: str) -> Report:
    found = [Result(text, Level.FAIL, text, text), Result("h", Level.SKIP, text)]
    return Report([(text, found), ("network", [Result(text, Level.SKIP, text)])], {})


def rank_table(text: str) -> Any:
    data = table(1, 2, devices=1)
    for server in data["server_list"]:
        server["server_id"] = server["device"][0]["device_ip"] = text
    return parse_rank_table(json.dumps(data).encode(), "t.json").table


def many(text: str) -> RunRecord:
    made = outside(text)
    return dataclasses.replace(
        made, hosts={f"{n}{name}": view for n in range(20) for name, view in made.hosts.items()}
    )


VIEWS: list[Callable[[str], RenderableType]] = [
    lambda text: live_view(outside(text)),
    lambda text: live_view(many(text)),
    lambda text: status_view(outside(text)),
    lambda text: status_view(dataclasses.replace(many(text), world_size=80)),
    lambda text: ranks_view(outside(text)),
    lambda text: folded_view(outside(text)),
    lambda text: runs_table([outside(text)], 80),
    lambda text: runs_table([outside(text)], 20),
    lambda text: summary(outside(text), ControlDir(Path("/tmp") / text.replace("/", "").replace("\0", ""))),
    lambda text: servers_view(rank_table(text)),
    lambda text: devices_view(rank_table(text)),
    lambda text: diff_view([Difference(text, text)]),
    lambda text: text,
]


def only_shown(said: str, text: str) -> bool:
    """Whether nothing in it is obeyed; the oracle is Python's own idea of what can be printed."""
    return all(char.isprintable() or char == "\n" or (char == "\t" and "\t" in text) for char in said)


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
@pytest.mark.parametrize("width", [24, 80])
def test_no_view_obeys_what_it_shows(text: str, width: int) -> None:
    for number, view in enumerate(VIEWS):
        out = io.StringIO()
        Console(file=out, width=width).print(view(text))
        assert only_shown(out.getvalue(), text), (number, out.getvalue())
        assert width < 80 or "[/" not in text or "[/" in out.getvalue().replace("\n", ""), (
            number,
            out.getvalue(),
        )


PRINTERS: list[Callable[[str], object]] = [
    click.echo,
    lambda text: click.echo(text, err=True),
    lambda text: print_report(report(text)),
    lambda text: print_whole(servers_view(rank_table(text))),
    lambda text: PlainReport(sys.stdout).show(outside(text)),
    lambda text: CollectProgress(Console(stderr=True)).say(text),
    lambda text: print_json(record_json(outside(text))),
    lambda text: print(text),
    lambda text: click.echo(line_data(LogLine(text, "rank_0", text))),
    lambda text: click.echo(folded_data(FoldedLine(("rank_0",), LogLine(text, "rank_0", text)))),
    lambda text: LogPrinter(RawStream(sys.stdout), colour=False, times=True).show(
        LogBatch(text, "rank_0", f"{text}\n", True, 1e300, True)
    ),
    lambda text: LogPrinter(RawStream(sys.stdout), colour=False, times=True).show_folded(
        FoldedLine(("rank_0", "scheduler"), LogLine(text, "rank_0", text))
    ),
]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "latin-1", "ascii"])
def test_no_printer_sends_what_a_terminal_obeys_or_its_encoding_lacks(text: str, encoding: str) -> None:
    for number, show in enumerate(PRINTERS):
        with terminal(encoding) as said:
            show(text)
        assert said() and only_shown(said(), text), (number, said())


class _Terminal:
    """Standard output and error as a process has them, with this encoding."""

    def __init__(self, encoding: str) -> None:
        self.raw = io.BytesIO()
        self.encoding = encoding
        self.before = sys.stdout, sys.stderr

    def __enter__(self) -> Callable[[], str]:
        self.stream = io.TextIOWrapper(self.raw, encoding=self.encoding, write_through=True)
        sys.stdout = sys.stderr = self.stream
        self.door = only_visible_text()
        self.door.__enter__()
        return lambda: self.raw.getvalue().decode(self.encoding)

    def __exit__(self, *_: object) -> None:
        self.door.__exit__(None, None, None)
        sys.stdout, sys.stderr = self.before


terminal = _Terminal


def command(action: Callable[[], object]) -> click.Command:
    return click.Command("verb", callback=action)


def raising(error: BaseException) -> click.Command:
    def action() -> None:
        raise error

    return command(action)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RunFailed("rank 3 failed"), 1),
        (AgentError("no space", where="h1"), 4),
        (ConnectError("refused", where="h1"), 3),
        (HostsFailed({"a": ConnectError("x"), "b": AgentError("y")}), 3),
        (KeyboardInterrupt(), 5),
        (click.Abort(), 5),
        (click.UsageError("what?"), 2),
        (FileNotFoundError(2, "No such file", "job.yaml"), 2),
        (BrokenPipeError(32, "Broken pipe"), 2),
        (ZeroDivisionError("ours"), 70),
        (RecursionError(), 70),
        (MemoryError(), 70),
        (UnicodeEncodeError("gbk", "x", 0, 1, "no such character"), 70),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes(
    error: BaseException,
    code: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert run(raising(error), []) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said and said.strip()
    reports = list(tmp_path.rglob("*.txt"))
    assert len(reports) == (code == 70)
    if code == 70:
        assert len(said.splitlines()) == 1 and str(reports[0]) in said
        assert "Traceback" in reports[0].read_text() and reports[0].stat().st_mode & 0o77 == 0


def test_an_error_of_ours_is_told_where_nothing_can_be_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "orchestrate").write_text("in the way")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert run(raising(ZeroDivisionError("ours")), []) == 70
    assert "cannot be written" in capsys.readouterr().err


class _Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    def fileno(self) -> int:
        raise OSError("none")


@pytest.mark.parametrize("show", [lambda: click.echo("x"), lambda: Console().print("x"), lambda: print("x")])
def test_a_reader_that_has_enough_is_no_error(
    show: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", _Closed())
    assert run(command(show), []) == 0


def test_the_output_may_be_closed_from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert run(command(lambda: click.echo("x")), []) == 0


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["stat"], "`status`"),
        (["lauch"], "`launch`"),
        (["ckpt"], "`collect-ckpt`"),
        (["rank-table", "vald"], "validate"),
        (["checkpoint", "combin"], "combine"),
        (["logs", "--folow"], "--follow"),
        (["launch", "--dryrun"], "--dry-run"),
    ],
)
def test_a_mistyped_verb_or_option_is_told_with_what_may_have_been_meant(
    words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, words) == 2
    assert meant in capsys.readouterr().err


def test_the_console_has_one_door() -> None:
    """Only there is `rich`'s own console made, and only streams of the door are written to."""
    folder = Path(__file__).parents[2] / "orchestrator" / "cli"
    for path in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if path.name != "terminal.py" and isinstance(node, ast.ImportFrom) and node.module:
                names = {alias.name for alias in node.names}
                assert not (node.module.startswith("rich") and "Console" in names), path
                assert not (node.module == "rich" and names & {"print", "console", "get_console"}), path
            if isinstance(node, ast.Attribute) and node.attr in ("buffer", "__stdout__", "__stderr__"):
                assert "stdin" in ast.unparse(node) or "std" not in ast.unparse(node), (
                    f"{path}: {ast.unparse(node)}"
                )
            if isinstance(node, ast.Attribute) and node.attr == "from_markup":
                raise AssertionError(f"{path} reads markup")


def test_a_view_that_is_longer_than_the_screen_is_scrolled() -> None:
    console = Console(file=io.StringIO(), width=40, height=5)
    scroll = ScrollView(console)
    scroll.set("\n".join(f"line {number}" for number in range(10)))

    def shown() -> list[str]:
        out = io.StringIO()
        Console(file=out, width=40).print(scroll.screen(), end="")
        return out.getvalue().splitlines()

    assert shown()[:4] == ["line 0", "line 1", "line 2", "line 3"]
    assert len(shown()) == 5 and shown()[4].startswith("lines 1-4 of 10; arrows")
    assert scroll.press(b"\x1b[B") and shown()[0] == "line 1"
    assert scroll.press(b" ") and shown()[0] == "line 5"
    assert scroll.press(b"G") and shown()[0] == "line 6"
    assert scroll.press(b"\x1b[A") and shown()[0] == "line 5"
    assert scroll.press(b"g") and shown()[0] == "line 0"
    assert scroll.press(b"?") and not scroll.press(b"q")
    scroll.press(b"G")
    scroll.set("short")
    assert shown()[0] == "short"


def test_watching_draws_view_after_view_until_there_are_no_more_or_somebody_leaves() -> None:
    out = io.StringIO()
    keys = iter([b"", b"j", b"", b"q"])
    now = iter(range(1000))
    drawn: list[str] = []

    def views() -> Iterator[str]:
        for number in range(100):
            drawn.append(f"view {number}")
            yield drawn[-1]

    scroll = ScrollView(Console(file=out, width=40, height=5))
    scroll.run(views(), lambda seconds: next(keys), interval=3.0, clock=lambda: float(next(now)))
    assert 1 < len(drawn) < 5


def test_signs_that_the_encoding_lacks_have_others() -> None:
    made = outside("x")
    for encoding, sign in (("utf-8", "✗"), ("gbk", "0x"), ("latin-1", "0x"), ("ascii", "0x")):
        with terminal(encoding) as said:
            Console().print(live_view(made))
        assert sign in said() and "\\u" not in said()


def test_a_stream_of_the_door_is_what_it_stands_before() -> None:
    stream = VisibleStream(cast(Any, SimpleNamespace(encoding="gbk", errors="x", isatty=lambda: True)))
    assert (stream.encoding, stream.errors, stream.isatty(), stream.writable()) == ("gbk", "x", True, True)
