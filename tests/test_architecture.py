"""The floors of ARCHITECTURE.md: imports go down only, the agent is stdlib only, and only the CLI prints."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORCHESTRATOR = sorted((ROOT / "orchestrator").rglob("*.py"))
MODEL = sorted((ROOT / "model").rglob("*.py"))

# From the bottom up. A name is a module or a whole package; those of one row may import each other.
FLOORS = (
    ("errors", "states", "layout"),
    ("records",),
    ("agent",),
    ("yaml_words", "yaml_scalars", "yaml_file"),
    ("checkpoint",),
    ("inventory", "job"),
    ("ascend",),
    ("placement", "mindformers", "sizing"),
    ("launch_plan",),
    ("rank_table",),
    ("transport",),
    ("fleet", "collect", "collect_plan", "run_files", "offline"),
    ("discovery",),
    ("live_table",),
    ("preflight",),
    ("plan",),
    ("monitor",),
    ("runs", "logs", "collect_run", "answers"),
    ("status", "distribute"),
    ("launch", "check", "stop", "chat"),
    ("cli", "__main__"),
)
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}
AGENT = sorted((ROOT / "orchestrator/agent").glob("*.py")) + [
    ROOT / "orchestrator" / f"{name}.py" for name in ("__init__", "errors", "states", "layout", "records")
]
# Imports inside functions keep these off start-up; each says so in a comment where it stands.
LATE = {
    "orchestrator/transport/__init__.py",
    "orchestrator/cli/cmd_launch.py",
    "orchestrator/cli/main.py",
    "orchestrator/cli/options.py",
}


def name_of(path: Path) -> str:
    """The module or package right under `orchestrator` that a file belongs to."""
    return path.relative_to(ROOT / "orchestrator").parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Every module that is imported by name, with `from package import module` as one of it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def test_every_module_has_a_floor() -> None:
    names = {name_of(path) for path in ORCHESTRATOR} - {"__init__"}
    assert names == set(FLOOR_OF)


@pytest.mark.parametrize("path", ORCHESTRATOR, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    here = name_of(path)
    for module, _ in imports(parse(path)):
        parts = module.split(".")
        assert parts[0] not in ("mindspore", "model", "tests", "bench"), module
        if parts[0] != "orchestrator" or len(parts) < 2 or here == "__init__":
            continue
        target = parts[1]
        if target in FLOOR_OF:
            assert target == here or FLOOR_OF[target] <= FLOOR_OF[here], f"{here} imports {module}"


@pytest.mark.parametrize("path", MODEL, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_model_sees_nothing_of_the_orchestrator_but_file_formats(path: Path) -> None:
    for module, _ in imports(parse(path)):
        if module.startswith("orchestrator"):
            assert module.startswith(
                ("orchestrator.checkpoint.", "orchestrator.errors.", "orchestrator.layout.RunDir")
            ), module


@pytest.mark.parametrize("path", AGENT, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_agent_is_stdlib_only_and_old_python(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 8))
    for module, _ in imports(parse(path)):
        first, *rest = module.split(".")
        if first == "orchestrator":
            assert not rest or rest[0] in ("agent", "errors", "states", "layout", "records"), module
        else:
            assert first in sys.stdlib_module_names, module


def test_foreign_libraries_have_one_door_each() -> None:
    doors = {
        "paramiko": ("orchestrator/transport/ssh",),
        "fabric": ("orchestrator/transport/ssh",),
        "invoke": ("orchestrator/transport/ssh",),
        "yaml": ("orchestrator/yaml_", "orchestrator/plan/plan.py", "orchestrator/mindformers/write.py"),
        "rich": ("orchestrator/cli",),
        "click": ("orchestrator/cli",),
        "numpy": ("orchestrator/checkpoint",),
    }
    for path in ORCHESTRATOR:
        where = path.relative_to(ROOT).as_posix()
        for module, _ in imports(parse(path)):
            allowed = doors.get(module.split(".")[0])
            assert allowed is None or where.startswith(allowed), f"{where} imports {module}"


def test_only_the_command_lines_print() -> None:
    for path in [*ORCHESTRATOR, *MODEL]:
        where = path.relative_to(ROOT).as_posix()
        calls = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
        prints = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
        # The probe's print is a text for another interpreter.
        assert not prints or where.startswith(("orchestrator/cli/", "model/cli/", "model/__main__.py")), where


def test_imports_inside_functions_are_few_and_known() -> None:
    found = set()
    for path in ORCHESTRATOR:
        for function in ast.walk(parse(path)):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)) and list(imports(function)):
                found.add(path.relative_to(ROOT).as_posix())
    assert found == LATE


def test_files_can_be_read_in_one_sitting() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in [*ORCHESTRATOR, *MODEL]}
    assert {str(path): length for path, length in lengths.items() if length > 400} == {}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("orchestrator.cli.main", {"pydantic", "rich", "yaml", "paramiko", "numpy", "mindspore"}),
        ("orchestrator.cli.cmd_status", {"paramiko", "fabric", "numpy", "mindspore"}),
        ("orchestrator.cli.cmd_logs", {"paramiko", "fabric", "numpy", "mindspore"}),
        ("orchestrator.cli.cmd_launch", {"paramiko", "fabric", "numpy", "mindspore"}),
        ("orchestrator.cli.cmd_collect_ckpt", {"paramiko", "fabric", "mindspore"}),
        ("orchestrator.monitor.__main__", {"paramiko", "fabric", "rich", "click", "numpy", "mindspore"}),
    ],
)
def test_heavy_packages_stay_out_of_start_up(module: str, absent: set[str]) -> None:
    script = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not absent & set(done.stdout.split())
