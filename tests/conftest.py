"""What holds for all tests: what each needs, read from its imports, and which of them one process runs."""

from __future__ import annotations

import ast
import functools
import importlib.util
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real_mindformers import why_no_mindformers

ROOT = Path(__file__).parents[1]
OURS = ("model", "orchestrator", "tests")
# What the worker extra of setup.cfg brings; a light install does without, and so do the tests of all else.
WORKER = ("huggingface_hub", "mindspore", "safetensors", "tokenizers")
MISSING = frozenset(name for name in WORKER if importlib.util.find_spec(name) is None)
STARTS_SSHD = frozenset(["remote", "servers", "sshd"])  # fixtures


def pytest_configure() -> None:
    """Whoever starts the suite with `nohup` or `&` has it ignore these, and so all that it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def cpu() -> None:
    """MindSpore has whole graphs, on a CPU: set before anything is computed, in whichever test that is."""
    if mindspore := sys.modules.get("mindspore"):
        mindspore.set_device("CPU")
        mindspore.set_context(mode=mindspore.GRAPH_MODE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files that cannot be imported here, and those with MindSpore where it is not wanted."""
    unwanted = {"mindspore"} if "not mindspore" in config.option.markexpr else set()
    if collection_path.name.startswith("test_") and (MISSING | unwanted) & imported(collection_path):
        return True
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    everything = list(Path(__file__).parent.rglob("test_*.py"))
    if why := why_no_mindformers():
        terminalreporter.write_line(f"Without MindFormers: {why}; the tests that need it are skipped.")
    if MISSING:
        files = [path for path in everything if MISSING & imported(path)]
        told = (
            f"Not installed: {', '.join(sorted(MISSING))}; {len(files)} files that import them are left out."
        )
        terminalreporter.write_line(told)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs MindSpore or sshd, and begin with what takes longest: the ranks of MindSpore."""
    for item in items:
        if "mindspore" in imported(item.path):
            item.add_marker("mindspore")
        if "mindspore" in MISSING and item.get_closest_marker("mindspore"):
            item.add_marker(pytest.mark.skip(reason="MindSpore is not installed"))
        if not STARTS_SSHD.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("sshd")
    items.sort(key=lambda item: item.get_closest_marker("mindspore") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out tests by `together`, from both ends of the collection.

    One process begins with the ranks of MindSpore, which keep all cores busy, and the others with what comes
    last, which waits more than it computes: so the one's work is done while the others wait.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return together(nodeid)

        def _assign_work_unit(self, node: Any) -> None:
            if node is not self.nodes[0]:
                self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
            super()._assign_work_unit(node)

        def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
            super().mark_test_complete(node, item_index, duration)
            work = self.assigned_work[node]
            scope = together(self.registered_collections[node][item_index])
            if all(work[scope].values()):
                del work[scope]  # else all that a node has ever done is counted after each test

    config.option.loadscopereorder = False
    return Scheduler(config, log)


def together(nodeid: str) -> str:
    """The name that tests share which one process should run: their file's, or the test's own.

    A file that imports MindSpore compiles once what its tests share, and a fixture of a module is made once.
    """
    file, _, _ = nodeid.partition("::")
    path = ROOT / file
    shared = "mindspore" in imported(path) or _has_module_fixtures(path.parent / "conftest.py", path)
    return file if shared else nodeid


@functools.cache
def _has_module_fixtures(*paths: Path) -> bool:
    return any('scope="module"' in path.read_text() for path in paths if path.exists())


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """The top-level packages that importing a file of ours brings, directly or by way of others of ours."""
    seen, found, waiting = {path}, set(), [path]
    while waiting:
        foreign, ours = _imports(waiting.pop())
        found |= foreign
        waiting += ours - seen
        seen |= ours
    return frozenset(found)


@functools.cache
def _imports(path: Path) -> tuple[frozenset[str], frozenset[Path]]:
    """What a file imports when it is imported itself: packages that are not ours, and files that are.

    `from a import b` may be the module a.b.
    """
    names = frozenset(_names(ast.parse(path.read_bytes()).body))
    foreign = frozenset(top for name in names if (top := name.partition(".")[0]) not in OURS)
    return foreign, frozenset().union(*map(_files, names))


def _names(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Try):
            yield from _names(node.body)


@functools.cache
def _files(name: str) -> frozenset[Path]:
    """The files of ours that are run when `name` is imported: its packages' and its own."""
    parts = name.split(".") if name.partition(".")[0] in OURS else []
    places = [ROOT.joinpath(*parts[:end]) for end in range(1, len(parts) + 1)]
    files = (file for place in places for file in (place / "__init__.py", place.with_suffix(".py")))
    return frozenset(file for file in files if file.is_file())
