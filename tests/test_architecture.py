"""The floors of ARCHITECTURE.md: imports go down only, the agent is stdlib only, and only the CLI prints."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORCHESTRATOR = sorted((ROOT / "orchestrator").rglob("*.py"))
MODEL = sorted((ROOT / "model").rglob("*.py"))

# From the bottom up: a room is a folder right under its package, or a module there. Those of one row do not
# import each other.
FLOORS = {
    "orchestrator": (
        ("core",),
        ("formats",),
        ("agent",),
        ("families",),
        ("checkpoint", "config"),
        ("hosts",),
        ("ascend",),
        ("rank_table", "sizing"),
        ("plan",),
        ("diagnosis", "preflight"),
        ("control",),
        ("testing", "transfer"),
        ("recovery",),
        ("simulation",),
        ("api",),
        ("cli",),
        ("__main__",),
    ),
    "model": (
        ("errors", "phases"),
        ("config",),
        ("data", "devices"),
        ("parallel",),
        ("network", "weights"),
        ("inference", "training"),
        ("compatibility",),
        ("cli",),
        ("__main__", "convert_weight"),
    ),
}
FLOOR_OF = {
    (package, name): number
    for package, floors in FLOORS.items()
    for number, names in enumerate(floors)
    for name in names
}
ON_HOSTS = ("agent", "core", "formats")
AGENT = [path for path in ORCHESTRATOR if path.parent.name in ON_HOSTS] + [ROOT / "orchestrator/__init__.py"]
# What the Python that runs this has, and what later ones have in the place of `_sha256`.
STDLIB = sys.stdlib_module_names | {"_sha2"}
# Imports inside functions keep these off start-up; each says so in a comment where it stands.
LATE = {
    "orchestrator/agent/content_store.py",
    "orchestrator/agent/copier_process.py",
    "orchestrator/agent/daemon.py",
    "orchestrator/agent/host_probe.py",
    "orchestrator/agent/host_runs.py",
    "orchestrator/agent/verbs_evidence.py",
    "orchestrator/agent/placed_inputs.py",
    "orchestrator/agent/verbs_copies.py",
    "orchestrator/agent/verbs_host.py",
    "orchestrator/agent/python_stacks.py",
    "orchestrator/agent/supervisor.py",
    "orchestrator/agent/worker.py",
    "orchestrator/core/paths.py",
    "orchestrator/control/cause.py",
    "orchestrator/control/launch.py",
    "orchestrator/control/start.py",
    "orchestrator/control/monitor_lock.py",
    "orchestrator/control/runs.py",
    "orchestrator/api.py",
    "orchestrator/recovery/run_recovery.py",
    "orchestrator/hosts/open_transport.py",
    "orchestrator/hosts/ssh/connection.py",
    "orchestrator/cli/cmd_checkpoint_convert.py",
    "orchestrator/cli/cmd_checkpoint_inspect.py",
    "orchestrator/cli/cmd_collect_ckpt.py",
    "orchestrator/cli/cmd_launch.py",
    "orchestrator/cli/cmd_runs.py",
    "orchestrator/config/job_fields.py",
    "orchestrator/plan/launch_plan.py",
    "orchestrator/cli/copy_progress.py",
    "orchestrator/cli/main.py",
    "orchestrator/cli/options.py",
    "orchestrator/cli/sentences.py",
    "orchestrator/cli/units.py",
}


def name_of(path: Path) -> tuple[str, str]:
    """The package, and the room right under it, that a file belongs to."""
    package, room = path.relative_to(ROOT).parts[:2]
    return package, room.removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Every module that is imported by name, with `from package import module` as one of it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def test_every_room_has_a_floor() -> None:
    names = {name_of(path) for path in [*ORCHESTRATOR, *MODEL]}
    assert {name for name in names if name[1] != "__init__"} == set(FLOOR_OF)


@pytest.mark.parametrize("path", [*ORCHESTRATOR, *MODEL], ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    here = name_of(path)
    for module, _ in imports(parse(path)):
        parts = module.split(".")
        target = (parts[0], parts[1] if len(parts) > 1 else "")
        if here[1] != "__init__" and target in FLOOR_OF and target != here and target[0] == here[0]:
            assert FLOOR_OF[target] < FLOOR_OF[here], f"{'.'.join(here)} imports {module}"


@pytest.mark.parametrize("path", ORCHESTRATOR, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_orchestrator_does_without_the_model(path: Path) -> None:
    for module, _ in imports(parse(path)):
        assert module.split(".")[0] not in ("mindspore", "model", "tests", "bench"), module


@pytest.mark.parametrize("path", MODEL, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_model_sees_nothing_of_the_orchestrator_but_formats_and_its_configuration(path: Path) -> None:
    for module, _ in imports(parse(path)):
        if module.startswith("orchestrator"):
            assert module.startswith(
                (
                    "orchestrator.checkpoint.",
                    "orchestrator.config.job_fields.",
                    "orchestrator.config.schema.",
                    "orchestrator.config.worker_config.",
                    "orchestrator.config.yaml_messages.Invalid",
                    "orchestrator.config.yaml_reader.",
                    "orchestrator.core.ends.SAVED_EXIT",
                    "orchestrator.core.errors.",
                    "orchestrator.core.number_ranges.",
                    "orchestrator.core.paths.RunDir",
                    "orchestrator.core.records.Phase",
                    "orchestrator.core.visible_text.",
                    "orchestrator.families.",
                    "orchestrator.formats.",
                )
            ), module


@pytest.mark.parametrize("package", FLOORS)
def test_a_file_is_found_by_its_name(package: str) -> None:
    """No two files of a package share a name; faces and main programs are what their folder is called."""
    names = [path.stem for path in (ROOT / package).rglob("*.py") if not path.stem.startswith("__")]
    assert {name for name in names if names.count(name) > 1} == set()


@pytest.mark.parametrize("path", AGENT, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_agent_is_stdlib_only_and_old_python(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 8))
    for module, _ in imports(parse(path)):
        first, *rest = module.split(".")
        if first == "orchestrator":
            assert not rest or rest[0] in ON_HOSTS, module
        else:
            assert first in STDLIB, module


def test_foreign_libraries_have_one_door_each() -> None:
    doors = {
        "paramiko": ("orchestrator/hosts/ssh", "orchestrator/testing"),
        "fabric": ("orchestrator/hosts/ssh", "orchestrator/api.py"),
        "invoke": ("orchestrator/hosts/ssh",),
        "yaml": ("orchestrator/config", "orchestrator/plan/make_plan.py", "orchestrator/testing"),
        "rich": ("orchestrator/cli",),
        "click": ("orchestrator/cli",),
        "numpy": ("orchestrator/checkpoint",),
    }
    for path in ORCHESTRATOR:
        where = path.relative_to(ROOT).as_posix()
        for module, _ in imports(parse(path)):
            allowed = doors.get(module.split(".")[0])
            assert allowed is None or where.startswith(allowed), f"{where} imports {module}"


def test_only_the_client_speaks_to_agents() -> None:
    """What a host says is looked at in one place; tests of the agent itself ask it without that."""
    private = ("orchestrator.hosts.session", "orchestrator.hosts.conversation")
    # The simulated session without bytes stands for the network below the client.
    simulated = ("orchestrator/simulation/sim_session.py", "orchestrator/simulation/sim_values.py")
    allowed = ("orchestrator/hosts/", "orchestrator/testing/agent_host.py", *simulated)
    for path in ORCHESTRATOR:
        where = path.relative_to(ROOT).as_posix()
        for module, _ in imports(parse(path)):
            assert not module.startswith(private) or where.startswith(allowed), f"{where} imports {module}"


PRINT = ("orchestrator/cli/", "orchestrator/testing/", "model/cli/", "model/__main__.py")


def test_only_the_command_lines_print() -> None:
    for path in [*ORCHESTRATOR, *MODEL]:
        where = path.relative_to(ROOT).as_posix()
        calls = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
        prints = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
        # The probe's print is a text for another interpreter.
        assert not prints or where.startswith(PRINT), where


def test_imports_inside_functions_are_few_and_known() -> None:
    found = set()
    for path in ORCHESTRATOR:
        for function in ast.walk(parse(path)):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)) and list(imports(function)):
                found.add(path.relative_to(ROOT).as_posix())
    assert found == LATE


LONGEST = {"bloom.py": 600}  # a network, which is read from top to bottom


def test_files_can_be_read_in_one_sitting() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in [*ORCHESTRATOR, *MODEL]}
    too_long = {str(path): length for path, length in lengths.items() if length > LONGEST.get(path.name, 400)}
    assert too_long == {}


# What reads a job or an inventory as a person wrote it: who looks at a run has its plan, and does without.
OF_JOBS = ("pydantic", "yaml", "orchestrator.config.job", "orchestrator.families.registry")


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("orchestrator.cli.main", {"pydantic", "rich", "yaml", "paramiko", "numpy", "mindspore"}),
        ("orchestrator.cli.cmd_status", {"paramiko", "fabric", "numpy", "mindspore", *OF_JOBS}),
        ("orchestrator.cli.cmd_logs", {"paramiko", "fabric", "rich", "numpy", "mindspore", *OF_JOBS}),
        ("orchestrator.cli.cmd_stop", {"paramiko", "fabric", "numpy", "mindspore", *OF_JOBS}),
        ("orchestrator.cli.cmd_runs", {"paramiko", "fabric", "numpy", "mindspore", *OF_JOBS}),
        # With what then reads a run's plan, and speaks to its hosts.
        ("orchestrator.control.attempt_logs", {"paramiko", "fabric", "rich", "numpy", *OF_JOBS}),
        ("orchestrator.control.stop", {"paramiko", "fabric", "rich", "numpy", *OF_JOBS}),
        ("orchestrator.cli.cmd_launch", {"paramiko", "fabric", "numpy", "mindspore"}),
        ("orchestrator.cli.cmd_collect_ckpt", {"paramiko", "fabric", "mindspore"}),
        ("orchestrator.cli.cmd_checkpoint", {"paramiko", "pydantic", "yaml", "rich", "mindspore"}),
        ("orchestrator.recovery.__main__", {"paramiko", "fabric", "rich", "click", "numpy", "mindspore"}),
    ],
)
def test_heavy_packages_stay_out_of_start_up(module: str, absent: set[str]) -> None:
    script = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not absent & set(done.stdout.split())


def test_a_connection_brings_no_more_of_paramiko_than_it_needs_and_takes_nothing_from_others() -> None:
    """A `Match exec` that somebody else has it evaluate works as ever."""
    script = """if True:
        import io, sys
        from orchestrator.config.inventory import Host, SshOptions
        from orchestrator.hosts.open_transport import open_transport
        open_transport(Host(name="a", address="127.0.0.1", workdir="/w"), SshOptions()).close()
        print(*sys.modules)
        import paramiko
        text = "Match exec true\\n  Port 23\\nMatch exec false\\n  User nobody\\n"
        print(sorted(paramiko.SSHConfig.from_text(text).lookup("a").items()))
        print(*sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, found, last = done.stdout.splitlines()
    assert "paramiko" in first.split() and not {"invoke.context", "fabric", "asyncio"} & set(first.split())
    assert found == "[('hostname', 'a'), ('port', '23')]" and "invoke.context" in last.split()
