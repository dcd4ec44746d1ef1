"""A run of `task: mindformers` on hosts of this machine, with a stand-in for the package: what reaches it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from orchestrator.testing.local_cluster import Cluster

# What MindFormers 1.0 to 2.1 have under these names, as far as a start needs it.
STAND_IN = {
    "__init__.py": "",
    "tools/__init__.py": "",
    "tools/register.py": """
import yaml
class MindFormerConfig(dict):
    def __init__(self, path):
        with open(path) as file:
            super().__init__(yaml.safe_load(file))
    __getattr__ = dict.get
    __setattr__ = dict.__setitem__
""",
    "core/__init__.py": "",
    "core/context.py": "def build_context(config):\n    config.built = True\n",
    "trainer.py": """
import json, os
class Trainer:
    def __init__(self, config):
        self.config = config
    def _tell(self, verb, **given):
        names = ("LOG_MF_PATH", "MS_ROLE", "RANK_ID", "ORCHESTRATE_ATTEMPT")
        told = {"verb": verb, "given": given, "config": self.config, "cwd": os.getcwd()}
        if os.environ["MS_ROLE"] == "MS_WORKER":
            with open(f"told_{os.environ['RANK_ID']}.json", "a") as file:
                print(json.dumps({**told, "env": {name: os.environ[name] for name in names}}), file=file)
            if os.path.exists(self.config.get("fails", "")) and self.config.output_dir.endswith("/1"):
                raise SystemExit(3)
    def train(self):
        self._tell("train")
    def evaluate(self, eval_checkpoint):
        self._tell("evaluate", eval_checkpoint=eval_checkpoint)
    def predict(self, **given):
        self._tell("predict", **given)
""",
}
RUN = """\
# A comment that stays.
output_dir: ./output   # replaced
load_checkpoint: ''
run_mode: train
trainer: {type: CausalLanguageModelingTrainer}
model: {model_config: {type: LlamaConfig}}
parallel_config: {model_parallel: 1}
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster.local(tmp_path)
    for name, text in STAND_IN.items():
        path = tmp_path / "packages/mindformers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    yield cluster
    cluster.close()


def write(cluster: Cluster, run: str, **section: object) -> Path:
    (cluster.folder / "run.yaml").write_text(run)
    job = {
        "name": "mf",
        "task": "mindformers",
        "devices_per_host": 1,
        "device_target": "CPU",
        "networking": {"mode": "dynamic"},
        "env": {"PYTHONPATH": str(cluster.folder / "packages")},
        "restart": {"max": 1},
        "mindformers": {"config": "run.yaml", **section},
    }
    path = cluster.folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def told(cluster: Cluster, rank: int) -> list[dict]:
    [path] = cluster.folder.glob(f"hosts/*/runs/*/told_{rank}.json")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.mindspore
def test_each_attempt_has_its_own_run_yaml_on_every_host(cluster: Cluster) -> None:
    (cluster.folder / "fail").write_text("")
    job = write(cluster, RUN + f"fails: {cluster.folder}/fail\n", set={"seed": 7})
    launched = cluster.run("launch", str(job))
    assert launched.returncode == 0, launched.stdout + launched.stderr
    assert (cluster.folder / "run.yaml").read_text().startswith(RUN)
    for number in (1, 2):
        texts = {
            path.read_text()
            for path in cluster.folder.glob(f"hosts/*/runs/*/attempts/{number}/mindformers.yaml")
        }
        [text] = texts
        assert text.startswith(f"# A comment that stays.\noutput_dir: ./attempts/{number}   # replaced\n")
        assert yaml.safe_load(text)["parallel_config"] == {"data_parallel": 2, "model_parallel": 1}
    for rank in (0, 1):
        last = told(cluster, rank)[-1]
        run_dir = Path(last["cwd"])
        assert (last["verb"], last["config"]["seed"], last["config"]["built"]) == ("train", 7, True)
        assert last["env"]["LOG_MF_PATH"] == f"{run_dir}/attempts/2/log"
        assert (last["env"]["RANK_ID"], last["env"]["ORCHESTRATE_ATTEMPT"]) == (str(rank), "2")


@pytest.mark.mindspore
def test_what_answers_is_given_the_checkpoint_of_the_run_yaml(cluster: Cluster) -> None:
    (cluster.folder / "w.ckpt").write_text("")
    job = write(cluster, RUN.replace("''", "w.ckpt"), run_mode="predict")
    launched = cluster.run("launch", str(job))
    assert launched.returncode == 0, launched.stdout + launched.stderr
    [last] = told(cluster, 1)
    assert last["verb"] == "predict" and last["given"]["predict_checkpoint"] == "w.ckpt"
    assert (Path(last["cwd"]) / "w.ckpt").is_file()


def test_a_dry_run_shows_the_difference_and_no_secret(cluster: Cluster) -> None:
    job = write(cluster, RUN + "hub_token: abcdef\n", set={"hub_token": "secret"})
    shown = cluster.run("launch", str(job), "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "-output_dir: ./output   # replaced\n+output_dir: ./attempts/1   # replaced\n" in shown.stdout
    assert "+parallel_config: {data_parallel: 2, model_parallel: 1}\n" in shown.stdout
    assert "abcdef" not in shown.stdout and "secret" not in shown.stdout
    data = json.loads(cluster.run("launch", str(job), "--dry-run", "--json").stdout)
    assert "+output_dir: ./attempts/1   # replaced" in data["run_yaml_diff"]


def test_what_hosts_lack_is_said_before_anything_starts(cluster: Cluster) -> None:
    job = write(cluster, RUN.replace("''", "/nowhere/w.ckpt"))
    refused = cluster.run("launch", str(job))
    assert refused.returncode == 4
    assert refused.stderr.startswith("orchestrate: host[1-2]: /nowhere/w.ckpt does not exist")
    assert not list(cluster.folder.glob("hosts/*/runs/*"))
