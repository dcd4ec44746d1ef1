"""What the agent finds of CANN and of the MindSpore there, in files that nobody vouches for."""

from __future__ import annotations

import ast
import importlib.util
import os
import time
from pathlib import Path

import pytest

from orchestrator.agent.cann import cann_facts, cann_version, read_regular

# As in the wheel of 2.7.1: another list, another place of the version, a folder without which it ends.
OLD = '''
class GPUEnvChecker(EnvChecker):
    def __init__(self, library_path):
        self.version = ["10.1", "11.1", "11.6"]


class AscendEnvChecker(EnvChecker):
    """ascend environment check"""

    def __init__(self, library_path):
        self.library_path = library_path
        self.version = ["7.8", "8.2", "8.3"]
        if self.ascend_opp_path is not None:
            self.compiler_version = self.ascend_opp_path.split("opp")[0] + "compiler/version.info"

    def check_opp_kernel(self):
        raise Exception("Ascend opp_kernel is not installed")

    def set_env(self):
        self.check_deps_version()

        self.check_opp_kernel()
'''


def wheel(folder: Path, text: str) -> dict[str, str]:
    """The module `mindspore` of a host whose wheel has this text."""
    (folder / "run_check").mkdir()
    (folder / "run_check/_check_version.py").write_text(text)
    return {"mindspore": str(folder / "__init__.py")}


def test_the_versions_that_an_old_mindspore_takes(tmp_path: Path) -> None:
    asked = cann_facts({}, wheel(tmp_path, OLD))["asked"]
    assert asked == {"versions": ["7.8", "8.2", "8.3"], "opp_kernel": True}


@pytest.mark.skipif(importlib.util.find_spec("mindspore") is None, reason="MindSpore is not installed")
def test_the_versions_that_the_mindspore_here_takes() -> None:
    """Read from the wheel itself, and compared with what its syntax tree says."""
    spec = importlib.util.find_spec("mindspore")
    assert spec is not None and spec.origin is not None
    tree = ast.parse((Path(spec.origin).parent / "run_check/_check_version.py").read_text())
    (checker,) = (
        each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == "AscendEnvChecker"
    )
    (listed,) = (
        ast.literal_eval(each.value)
        for each in ast.walk(checker)
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "self.version"
    )
    checks = {each.func.attr for each in ast.walk(checker) if isinstance(each, ast.Call)
              and isinstance(each.func, ast.Attribute)}  # fmt: skip
    asked = cann_facts({}, {"mindspore": spec.origin})["asked"]
    assert asked == {"versions": listed, "opp_kernel": "check_opp_kernel" in checks}
    assert listed


@pytest.mark.parametrize(
    "text",
    ["", "class AscendEnvChecker:\n    pass", "self.version = ['1.0']", "class AscendEnvChecker" * 10000,
     "class AscendEnvChecker\nself.version = [" + "'8.2'," * 100000, "\0\xff[]"],
    ids=["empty", "none", "another class", "repeated", "endless", "bytes"],
)  # fmt: skip
def test_a_file_that_says_nothing(tmp_path: Path, text: str) -> None:
    started = time.monotonic()
    assert cann_facts({}, wheel(tmp_path, text))["asked"]["versions"] == []
    assert time.monotonic() - started < 5


def test_a_mindspore_that_is_not_there() -> None:
    assert cann_facts({}, {})["asked"] is None
    assert cann_facts({}, {"mindspore": None})["asked"] is None


def toolkit(folder: Path, version: str = "7.7.0.1.238", release: str = "8.1.RC1") -> Path:
    (folder / "compiler").mkdir(parents=True)
    text = f"Version={version}\nversion_dir={release}\ntimestamp=20250428_203017761\n"
    (folder / "compiler/version.info").write_text(text)
    return folder


def test_the_compiler_is_found_as_either_mindspore_finds_it(tmp_path: Path) -> None:
    home = toolkit(tmp_path / "cann")
    for environment in ({"ASCEND_HOME_PATH": str(home)}, {"ASCEND_OPP_PATH": f"{home}/opp"}):
        assert cann_facts(environment, {})["compiler"] == {
            "version": "7.7.0.1.238",
            "release": "8.1.RC1",
            "path": f"{home}/compiler/version.info",
        }
    assert cann_facts({}, {})["compiler"] is None
    (home / "compiler/version.info").write_text("no version")
    assert cann_facts({"ASCEND_HOME_PATH": str(home)}, {})["compiler"] is None


def test_the_folder_of_kernels_is_looked_for_where_old_mindspore_does(tmp_path: Path) -> None:
    environment = {"ASCEND_OPP_PATH": str(tmp_path / "opp")}
    assert cann_facts(environment, {})["opp_kernel"] is False
    Path(str(tmp_path / "opp").replace("opp", "opp_kernel")).mkdir(parents=True)
    assert cann_facts(environment, {})["opp_kernel"] is True


def test_the_script_of_the_toolkit_in_use_comes_first(tmp_path: Path) -> None:
    usual, own = tmp_path / "cann/set_env.sh", tmp_path / "own/set_env.sh"
    roots = (str(tmp_path / "none"), str(tmp_path))
    assert cann_facts({}, {}, roots=roots)["set_env"] is None
    for script in (usual, own):
        script.parent.mkdir()
        script.touch()
    assert cann_facts({}, {}, roots=roots)["set_env"] == str(usual)
    environment = {"ASCEND_HOME_PATH": str(own.parent / "latest")}
    assert cann_facts(environment, {}, roots=roots)["set_env"] == str(own)


def test_the_release_of_the_toolkit(tmp_path: Path) -> None:
    info = tmp_path / "aarch64-linux/ascend_toolkit_install.info"
    info.parent.mkdir()
    info.write_text("package_name=Ascend-cann-toolkit\nversion=8.1.RC1\ninnerversion=V100R001C21SPC001B238\n")
    assert cann_version({"ASCEND_HOME_PATH": str(tmp_path)}) == "8.1.RC1"
    info.unlink()
    os.mkfifo(info)
    assert cann_version({"ASCEND_HOME_PATH": str(tmp_path)}) in (None, cann_version({}))


def test_only_regular_files_of_some_size_are_read(tmp_path: Path) -> None:
    good, link, fifo, huge = (tmp_path / name for name in ("good", "link", "fifo", "huge"))
    good.write_bytes(b"text \xff")
    link.symlink_to(good)  # as packages that are installed by links
    os.mkfifo(fifo)
    with open(huge, "wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "to fifo").symlink_to(fifo)
    assert read_regular(str(good)) == read_regular(str(link)) == "text �"
    for path in (fifo, tmp_path / "to fifo", huge, tmp_path, tmp_path / "none", "/dev/zero", "a\0b"):
        assert read_regular(str(path)) is None
