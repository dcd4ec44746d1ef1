"""The reference is what the code says: every key and option, with type, default and meaning."""

from __future__ import annotations

import pytest

from docs.write_reference import FOLDER, PAGES


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_the_reference_is_what_the_code_says(name: str) -> None:
    written = (FOLDER / name).read_text(encoding="utf-8")
    assert written == PAGES[name](), f"docs/reference/{name} is stale: run `make docs` and commit it"


def test_there_is_no_other_page() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(PAGES)


def test_pages_say_what_has_been_told_wrongly_before() -> None:
    job = PAGES["job.md"]()
    assert "| `start` | number > 0 | `1800` |" in job
    assert "| `learning_rate` | number > 0 | `1e-5` |" in job
    assert "| `mode` | `rank_table`, `dynamic`, `legacy_rank_table`, `none` | `rank_table` on Ascend" in job
    assert "| `batch_size` | whole number > 0 | `1` |" in PAGES["worker-config.md"]()
    assert "| `transport` | `ssh`, `local` | `ssh` |" in PAGES["inventory.md"]()
    assert r"| `--format [ckpt\|safetensors\|huggingface\|unified]` |" in PAGES["cli.md"]()
