"""Run YAMLs of MindFormers, edited in place: the value changes, and nothing else does."""

from __future__ import annotations

import copy
import difflib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.config.run_yaml import RunYaml, written
from orchestrator.config.run_yaml_keys import misspelt, refused
from orchestrator.core.errors import ConfigError

ROOT = Path(__file__).parents[2]
# The run YAMLs that MindFormers' own wheel brings, where `make test` has installed it.
OWN = sorted((ROOT / ".venv-mindformers").glob("lib/python3*/site-packages/configs/**/*.yaml"))
no_wheel = pytest.mark.skipif(not OWN, reason="no .venv-mindformers with MindFormers' own run YAMLs")

TEXT = """\
# A licence.
seed: 0
output_dir: './output'  # where it writes
load_checkpoint:
runner_config:
  epochs: 1   # often
  sink_mode: False

  # of a block
  extra: &extra
    a: [1, 2]   # a list
base: &base {x: 1, y: 'two'}
other:
  <<: *base
  z: 3
train_dataset: &data
  data_loader:
    dataset_dir: "/a"
train_dataset_task:
  dataset_config: *data
degrees: &dp 2
strategy: [[*dp, 1], [*dp, 1]]
callbacks:
  - type: MFLossMonitor
  - type: CheckpointMonitor
    prefix: "llama"  # first
long: |
  text
  more
"""


def lines_changed(before: str, after: str) -> list[str]:
    found = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line for line in found if line.startswith(("+ ", "- "))]


def edited(path: str, value: Any) -> list[str]:
    run = RunYaml("run.yaml", TEXT)
    run.set(tuple(path.split(".")), value)
    assert yaml.safe_load(run.text) == run.data
    return lines_changed(TEXT, run.text)


@pytest.mark.parametrize(
    ("path", "value", "changed"),
    [
        ("seed", 7, ["- seed: 0", "+ seed: 7"]),
        (
            "output_dir",
            "./attempts/1",
            ["- output_dir: './output'  # where it writes", "+ output_dir: ./attempts/1  # where it writes"],
        ),
        ("load_checkpoint", "/a b: c", ["- load_checkpoint:", '+ load_checkpoint: "/a b: c"']),
        ("runner_config.epochs", 3, ["-   epochs: 1   # often", "+   epochs: 3   # often"]),
        ("runner_config.sink_mode", True, ["-   sink_mode: False", "+   sink_mode: True"]),
        ("runner_config.batch_size", 4, ["+   batch_size: 4"]),
        ("runner_config.extra.a", [3], ["-     a: [1, 2]   # a list", "+     a: [3]   # a list"]),
        ("other.x", 5, ["+   x: 5"]),
        ("base.y", "no", ["- base: &base {x: 1, y: 'two'}", '+ base: &base {x: 1, y: "no"}']),
        ("base.w", 1.0, ["- base: &base {x: 1, y: 'two'}", "+ base: &base {w: 1.0, x: 1, y: 'two'}"]),
        ("new", 1e-8, ["+ new: 1.e-08"]),
        ("new.a.b", None, ["+ new: {a: {b: null}}"]),
        ("load_checkpoint.a", 1, ["- load_checkpoint:", "+ load_checkpoint: {a: 1}"]),
        (
            "callbacks.0.per_print_times",
            2,
            ["-   - type: MFLossMonitor", "+   - per_print_times: 2", "+     type: MFLossMonitor"],
        ),
        ("callbacks.1.prefix", "x", ['-     prefix: "llama"  # first', "+     prefix: x  # first"]),
        ("long", "short", ["- long: |", "-   text", "-   more", "+ long: short"]),
        ("strategy.0", [1], ["- strategy: [[*dp, 1], [*dp, 1]]", "+ strategy: [[1], [*dp, 1]]"]),
        ("strategy.0.0", 9, ["- strategy: [[*dp, 1], [*dp, 1]]", "+ strategy: [[9, 1], [*dp, 1]]"]),
    ],
)  # fmt: skip
def test_one_value_is_written(path: str, value: Any, changed: list[str]) -> None:
    assert sorted(edited(path, value)) == sorted(changed)


def test_what_is_there_already_stays_as_it_is_written() -> None:
    for path, value in (("seed", 0), ("output_dir", "./output"), ("other.y", "two"), ("degrees", 2)):
        assert edited(path, value) == []


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("  a: 1\n  b: 2", "  a: 1\n  b: 2\n  new: 3\n"),
        ("{a: 1}\n", "{new: 3, a: 1}\n"),
        ("---\na: 1\n...\n", "---\na: 1\nnew: 3\n...\n"),
        ("a: 1\r\nb: 2\r\n", "a: 1\r\nb: 2\r\nnew: 3\n"),
        ("x: &x {c: 1}\n<<: *x\n", "new: 3\nx: &x {c: 1}\n<<: *x\n"),
        ("\ufeffa: 1\n# the end\n", "a: 1\n# the end\nnew: 3\n"),
    ],
)
def test_a_new_key_fits_the_file(text: str, whole: str) -> None:
    run = RunYaml("run.yaml", text)
    run.set(("new",), 3)
    assert run.text == whole and run.get("new") == 3


def test_true_is_not_one() -> None:
    assert edited("seed", False) == ["- seed: 0", "+ seed: False"]


def test_a_value_with_an_anchor_is_for_its_aliases_too() -> None:
    run = RunYaml("run.yaml", TEXT)
    run.set(("degrees",), 4)
    assert run.get("strategy") == [[4, 1], [4, 1]]
    assert "degrees: &dp 4\n" in run.text
    assert run.aliases_of(("degrees",)) == ("strategy.0.0", "strategy.1.0")
    run.set(("train_dataset", "data_loader", "dataset_dir"), "/b")
    assert run.get("train_dataset_task", "dataset_config", "data_loader", "dataset_dir") == "/b"
    assert run.aliases_of(("train_dataset", "data_loader")) == ("train_dataset_task.dataset_config",)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (
            "train_dataset_task.dataset_config.x",
            "run.yaml:20: train_dataset_task.dataset_config: cannot be set: train_dataset_task.dataset_config"
            " is an alias, of another key's value (set the key that has the anchor)",
        ),
        ("callbacks.7.x", "run.yaml:23: callbacks: is a list of 2, and has no item 7"),
        ("seed.x", "run.yaml:2: seed: holds one value, so that x cannot be set in it"),
    ],
)
def test_what_cannot_be_set(path: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        edited(path, 1)
    assert said in str(caught.value)


def test_values_are_mindformers_own_and_lines_are_known() -> None:
    run = RunYaml("run.yaml", "a: yes\nb: 1e-8\nc: 1.e-8\nd: &x {e: 010}\nf:\n  <<: *x\n  g: 1\n")
    assert (run.get("a"), run.get("b"), run.get("c")) == (True, "1e-8", 1e-8)  # YAML 1.1, as there
    assert run.get("f", "e") == 8 and run.line(("f", "e")) == 4 and run.line(("f", "g")) == 7
    assert run.where(("f", "nothing")) == "run.yaml:5: f.nothing"


@pytest.mark.parametrize(
    "value",
    [1e-8, 2.5, 1e22, "1e-8", "yes", "", "a # b", "ä", "a: b", "{x}", "*a", " a ", "010", None, [], {}],
)
def test_a_written_value_is_read_back(value: Any) -> None:
    assert yaml.safe_load(f"a: {written(value)}  # x\nb: [{written(value)}]") == {"a": value, "b": [value]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2\n", "run.yaml:2: a: is given twice, first on line 1"),
        ("a: [1\n", "run.yaml:2: a list in [ ] or a mapping in { } is not closed"),
        ("- 1\n", "is not a mapping of keys to values"),
        ("a: !!python/name:os.system x\n", "is a YAML tag, and none is used here"),
        ("a: &a [*a]\n", "grows without end"),
        ("a: 2026-13-45\n", "MindFormers cannot read it"),
        ("x" * (600 << 10), "is larger than 512 KiB"),
    ],
)
def test_what_is_no_run_yaml_has_a_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunYaml("run.yaml", text)
    assert said in str(caught.value)


def test_misspelt_keys_and_others() -> None:
    text = "load_chekpoint: a\nmy_own: 1\nrunner_config: {epoch: 1, epochs: 2}\n"
    text += "parallel_config:\n  model_paralel: 2\n"
    said = [str(problem) for problem in misspelt(RunYaml("run.yaml", text))]
    assert said == [
        "run.yaml:1: load_chekpoint: unknown key (did you mean `load_checkpoint`?)",
        "run.yaml:5: parallel_config.model_paralel: unknown key (did you mean `model_parallel`?)",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base_config: a.yaml\ntrainer: {}\nmodel: {}\n", "run.yaml:1: base_config: takes keys of 'a.yaml'"),
        (
            "model: {}\nparallelism: {}\n",
            "run.yaml:2: parallelism: is of a run YAML for MindFormers' PyNative",
        ),
        ("model: {}\n", "run.yaml: has no section trainer"),
    ],
)
def test_files_that_are_not_completed(text: str, said: str) -> None:
    [problem] = refused(RunYaml("run.yaml", text))
    assert str(problem).startswith(said)


EDITS: list[tuple[str, Any]] = [
    ("output_dir", "./attempts/2"),
    ("load_checkpoint", "./attempts/2/load"),
    ("resume_training", True),
    ("use_parallel", True),
    ("run_mode", "finetune"),
    ("context.device_target", "CPU"),
    ("context.device_id", 3),
    ("parallel_config.context_parallel", 2),
    ("runner_config.epochs", 9),
    ("optimizer.eps", 1e-9),
    ("callbacks.0.of_mine", 11),
    ("a_new.key.here", [1, {"b": "c"}]),
]


@no_wheel
@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_mindformers_own_files_keep_everything_else(path: Path) -> None:
    """Held against PyYAML, as MindFormers reads them."""
    text = path.read_text(encoding="utf-8")
    run, expected = RunYaml(path.name, text), yaml.safe_load(text)
    assert run.data == expected
    edits = [
        (name, value) for name, value in EDITS if not name.startswith("callbacks") or "callbacks" in expected
    ]
    for name, value in edits:
        run.set(tuple(name.split(".")), value)
        place: Any = expected
        *above, last = name.split(".")
        for part in above:
            if isinstance(place, list):
                place = place[int(part)]
                continue
            if place.get(part) in (None, ""):
                place[part] = {}
            place = place[part]
        place[last] = copy.deepcopy(value)
    assert yaml.safe_load(run.text) == expected
    gone = [line for line in text.splitlines() if "#" in line and line not in run.text.splitlines()]
    comments = [line.partition("#")[2] for line in gone]
    assert all(comment in run.text for comment in comments)
    assert len(lines_changed(text, run.text)) <= 2 * len(edits) + 4


@no_wheel
def test_no_key_of_mindformers_own_files_is_taken_for_misspelt() -> None:
    runs = [RunYaml(path.name, path.read_text(encoding="utf-8")) for path in OWN]
    assert [str(one) for run in runs if not list(refused(run)) for one in misspelt(run)] == []


ODD = """\
# 评论 😀
"clé": &x "你好\\u2028"  # é
list:
- *x
-
- {k: , v: [1, 'é😀']}

block: |
  你好

  x

folded: >-
  a
   b
<<: {merged: 1}
last:
  key: 1
  # of the end
"""


@pytest.mark.parametrize("text", [ODD, ODD.replace("\n", "\r\n"), ODD.rstrip("\n")])
def test_both_loaders_of_pyyaml_place_what_is_edited_alike(text: str) -> None:
    """By the characters, whatever the bytes: else an edit would hit what is beside it."""

    def places(loader: Any) -> list[tuple[str, int, int]]:
        found = [(type(one).__name__, one) for one in yaml.parse(text, Loader=loader)]
        # What is empty may stand before a blank, or behind it.
        full = [(name, one) for name, one in found if getattr(one, "value", "x") or name != "ScalarEvent"]
        return [(name, one.start_mark.index, one.end_mark.index) for name, one in full]

    quick = pytest.importorskip("yaml._yaml") and yaml.CSafeLoader
    assert places(yaml.SafeLoader) == places(quick)
    run = RunYaml("run.yaml", text)
    run.set(("last", "key"), 2)
    assert run.text == text.replace("key: 1", "key: 2")


@pytest.mark.skipif(not hasattr(yaml, "CSafeLoader"), reason="PyYAML without libyaml")
def test_an_edit_takes_less_than_to_read_the_file_once_in_python() -> None:
    """A launch makes some twenty of them."""
    text = TEXT + "".join(
        f"more{number}: {{a: [1, 2, 3], b: text, c: 1.5}}  # why\n" for number in range(300)
    )

    def took(work: Callable[[], object]) -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    run = RunYaml("run.yaml", text)
    once = min(took(lambda: list(yaml.parse(text, Loader=yaml.SafeLoader))) for _ in range(3))
    edit = min(took(lambda number=number: run.set(("seed",), number)) for number in range(1, 5))
    assert edit < once


def test_a_copy_is_edited_alone() -> None:
    run = RunYaml("run.yaml", TEXT)
    other = run.copy()
    other.set(("seed",), 5)
    assert (run.get("seed"), other.get("seed"), run.text) == (0, 5, TEXT)
