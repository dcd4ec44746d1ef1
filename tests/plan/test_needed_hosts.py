"""A launch without an inventory says what is missing for this very job."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.job_file import load_job
from orchestrator.core.errors import ConfigError
from orchestrator.plan.needed_hosts import inventory_for

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORCHESTRATE_INVENTORY", raising=False)


def lines(name: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        inventory_for(load_job(ROOT / f"jobs/{name}.yaml"), None)
    assert caught.value.exit_code == 2
    return [line.replace(f"{ROOT}/", "") for line in caught.value.lines()]


def test_a_job_for_npus_is_told_of_servers_and_of_its_files() -> None:
    first, *files = lines("finetune_65b")
    assert first == (
        "no inventory given: finetune_65b runs on 12 hosts with 8 NPUs each (write your servers into a "
        "copy of inventory/ascend_12x8.yaml and name it with `-i`, as ./inventory.yaml or in "
        "ORCHESTRATE_INVENTORY)"
    )
    there = "must be there on every host"
    assert files == [
        f"jobs/finetune_65b.yaml:11: data.path: /data/alpaca/alpaca_data.json {there}",
        f"jobs/finetune_65b.yaml:12: data.tokenizer: /data/bloom_65b/tokenizer.json {there}",
        f"jobs/finetune_65b.yaml:22: checkpoint.load: /data/bloom_65b/bloom_65b.ckpt {there}",
    ]


def test_a_job_for_cpus_is_told_of_this_machine() -> None:
    (line,) = lines("demo")
    assert line.startswith(
        "no inventory given: demo runs on 2 hosts, 2 ranks each (use `-i inventory/local.yaml`"
    )


def test_an_inventory_that_is_named_is_read() -> None:
    job = load_job(ROOT / "jobs/demo.yaml")
    assert len(inventory_for(job, ROOT / "inventory/local.yaml").hosts) == 2
