"""The documents are true: links lead somewhere, and what README tells to type exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from orchestrator.cli.main import cli
from orchestrator.config.inventory import Host
from orchestrator.config.job import Job

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_commands_and_options_of_the_readme_exist() -> None:
    def help_of(*words: str) -> str:
        result = CliRunner().invoke(cli, [*words, "--help"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    blocks = "\n".join(re.findall(r"^    (.*)$", README, re.MULTILINE))
    commands = set(re.findall(r"^orchestrate ([a-z-]+)", blocks, re.MULTILINE))
    assert {"launch", "status", "logs", "attach", "stop", "collect-ckpt"} <= commands
    for verb in commands:
        own = help_of(verb)
        for line in re.findall(rf"orchestrate {verb} ([^\n#;`]*)", README):
            text = help_of(verb, line.split()[0]) if "COMMAND [ARGS]" in own else own
            for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", line):
                assert option in text, f"orchestrate {verb} {option}"


def test_paths_of_the_readme_exist() -> None:
    for path in re.findall(r"(?:jobs|inventory|bench)/[\w.]+\.(?:yaml|py|sh)", README):
        assert (ROOT / path).exists() or path == "inventory/default.yaml", path


def test_the_inventory_of_the_readme_is_one_and_the_reference_is_complete(tmp_path: Path) -> None:
    block = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert block is not None
    assert {"transport", "ssh", "defaults", "hosts", "groups"} == set(yaml.safe_load(block[1]))
    for name in [*Host.model_fields, *Job.model_fields]:
        assert f"`{name}" in README, f"README says nothing of `{name}`"
