"""Jobs: the rules between their keys, and the exact line for each way to get one wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from orchestrator.config.command_words import script_of
from orchestrator.config.job_file import load_job
from orchestrator.config.job_network import network_of
from tests.config.support import JOB, job, lines_of

COMMAND = "name: c\ntask: command\ndevices_per_host: 1\ncommand: [sleep, 1]\n"
PREDICT = """\
name: p
task: predict
devices_per_host: 1
model: {preset: tiny}
checkpoint: {load: /w/x.ckpt}
predict: {prompts: [hello, 3]}
"""


def _with(old: str, new: str) -> str:
    assert old in JOB
    return JOB.replace(old, new)


WRONG = {
    _with("steps:", "stepz:"): "job.yaml:8: train.stepz: unknown key (did you mean `steps`?)",
    JOB + "tran: {}\n": "job.yaml:10: tran: unknown key (did you mean `train`?)",
    _with("name: demo\n", ""): "job.yaml:1: name: is missing",
    _with("name: demo", "name: 7"): 'job.yaml:1: name: expected text, got 7 (put it in quotes: "7")',
    _with("name: demo", "name: a/b"): "job.yaml:1: name: 'a/b' cannot be part of a file name"
    " (letters, digits and . _ - only, at most 64, a letter or digit first)",
    _with("finetune", "finetun"): "job.yaml:2: task: expected one of pretrain, finetune, predict, chat,"
    " command, mindformers; got 'finetun' (did you mean `finetune`?)",
    _with("devices_per_host: 2\n", ""): "job.yaml:1: devices_per_host: is missing",
    _with("host: 2", "host: 010"): "job.yaml:3: devices_per_host: expected a whole number, got '010'"
    " (write it without leading zeros)",
    _with("host: 2", "host: '2'"): "job.yaml:3: devices_per_host: expected a whole number, got '2'"
    " (write it without quotes)",
    _with("host: 2", "host: 0"): "job.yaml:3: devices_per_host: must be greater than 0, got 0",
    _with("host: 2", "host: true"): "job.yaml:3: devices_per_host: expected a whole number, got true",
    _with("400", "400.5"): "job.yaml:8: train.steps: expected a whole number, got 400.5",
    _with("1e-3", "fast"): "job.yaml:9: train.learning_rate: expected a number, got 'fast'",
    _with("1e-3", "-1"): "job.yaml:9: train.learning_rate: must be greater than 0, got -1",
    _with("1e-3", ".nan"): "job.yaml:9: train.learning_rate: expected a finite number, got nan",
    _with("model_parallel: 2", "optimizer_shard: yes"): "job.yaml:4: parallel.optimizer_shard:"
    " expected true or false, got 'yes'",
    _with("{preset: tiny}", "tiny"): "job.yaml:5: model: expected a mapping of keys to values, got 'tiny'",
    _with("{preset: tiny}", ""): "job.yaml:5: model: is missing; task finetune needs it",
    _with("tiny", "tny"): "job.yaml:5: model.preset: expected one of tiny, 560m, 7.1b, 65b, 176b; got 'tny'"
    " (did you mean `tiny`?)",
    _with("{path: /data/x.json}", "{}"): "job.yaml:6: data.path: is missing; task finetune needs it",
    _with("/data/x.json", "~/x.json"): "job.yaml:6: data.path: '~/x.json': ~ differs from host to host"
    " (write an absolute path, or one relative to the job file)",
    _with("  steps: 400\n", ""): "job.yaml:7: train.steps: is missing (give steps or epochs)",
    JOB + "  epochs: 2\n": "job.yaml:10: train.epochs: is given beside train.steps"
    " (keep one of them and set the other to null)",
    JOB + "  lr_end: 1e-2\n": "job.yaml:10: train.lr_end: must be at most learning_rate 0.001, got 0.01",
    JOB + "  warmup_steps: 401\n": "job.yaml:10: train.warmup_steps: must be at most steps 400, got 401",
    JOB + "  beta1: 1\n": "job.yaml:10: train.beta1: must be less than 1, got 1",
    JOB + "  lr_schedule: step\n": "job.yaml:10: train.lr_schedule:"
    " expected one of cosine, linear, constant; got 'step'",
    JOB + "  batch_size: 3\nparallel: {}\n": "job.yaml:11: parallel: is given twice, first on line 4",
    _with("model_parallel: 2", "micro_batch_num: 2"): "job.yaml:7: train.batch_size:"
    " must be a multiple of micro_batch_num 2, got 1 (it counts the records of one replica and step)",
    JOB + "  gradient_accumulation: 2\n": "job.yaml:7: train.batch_size:"
    " must be a multiple of gradient_accumulation 2, got 1 (it counts the records of one replica and step)",
    _with("model_parallel: 2", "micro_batch_num: 2")
    + "  gradient_accumulation: 3\n  batch_size: 4\n": "job.yaml:11: train.batch_size:"
    " must be a multiple of gradient_accumulation 3 * micro_batch_num 2, got 4"
    " (it counts the records of one replica and step)",
    JOB + "  loss_scale: fast\n": "job.yaml:10: train.loss_scale:"
    " expected dynamic or a number above 0, got 'fast'",
    JOB + "  loss_scale: 0\n": "job.yaml:10: train.loss_scale: expected dynamic or a number above 0, got 0",
    JOB + "checkpoint: {resume: true}\n": "job.yaml:10: checkpoint.resume: has nothing to go on from"
    " (name the checkpoint as checkpoint.load)",
    JOB + "command: [x]\n": "job.yaml:10: command: is not used by task finetune"
    " (remove it, or change the task)",
    JOB + "hosts: []\n": "job.yaml:10: hosts: is empty (name a group, a host range, or all)",
    JOB + "networking: {mode: none, port: 70000}\n": "job.yaml:10: networking.port:"
    " must be at most 65535, got 70000",
    JOB + "networking: {mode: none, port: 7}\n": "job.yaml:10: networking.port:"
    " is not used by mode none (remove it, or use mode rank_table or dynamic)",
    COMMAND + "networking: {mode: legacy_rank_table, port: 7}\n": "job.yaml:5: networking.port:"
    " is not used by mode legacy_rank_table (remove it, or use mode rank_table or dynamic)",
    JOB + "networking: {mode: legacy_rank_table}\n": "job.yaml:10: networking.mode:"
    " legacy_rank_table cannot start the bundled model: MindSpore makes no groups by a table alone"
    " (use rank_table)",
    JOB + "networking: {mode: rank_tabel}\n": "job.yaml:10: networking.mode: expected one of rank_table,"
    " dynamic, legacy_rank_table, none; got 'rank_tabel' (did you mean `rank_table`?)",
    JOB + "networking: {mode: [none]}\n": "job.yaml:10: networking.mode: expected one of rank_table,"
    " dynamic, legacy_rank_table, none; got a list (did you mean `none`?)",
    JOB + "timeouts: {grace: 0}\n": "job.yaml:10: timeouts.grace: must be greater than 0, got 0",
    JOB + "health: {floor: 0}\n": "job.yaml:10: health.floor: must be greater than 0, got 0",
    JOB + "health: {first: soon}\n": "job.yaml:10: health.first: expected a duration such as 90s, 10m or 3h,"
    " got 'soon'",
    JOB + "health: {straggler: 1}\n": "job.yaml:10: health.straggler: must be greater than 1, got 1",
    JOB + "health: {steps: 0}\n": "job.yaml:10: health.steps: must be greater than 0, got 0",
    JOB + "health: {flor: 3}\n": "job.yaml:10: health.flor: unknown key (did you mean `floor`?)",
    JOB + "health: never\n": "job.yaml:10: health: expected a mapping of keys to values, got 'never'",
    JOB + "checkpoint: {keep: 0}\n": "job.yaml:10: checkpoint.keep: must be greater than 0, got 0",
    JOB + "env: {RANK_ID: 3}\n": "job.yaml:10: env.RANK_ID: is set by the orchestrator for every rank"
    " (remove it)",
    JOB + "env: {MS_SCHED_X: 3}\n": "job.yaml:10: env.MS_SCHED_X: is set by the orchestrator for every rank"
    " (remove it)",
    JOB + "env: {A-B: 3}\n": "job.yaml:10: env.A-B: 'A-B' is not the name of an environment variable",
    JOB + "env: {A: }\n": "job.yaml:10: env.A: expected text, got nothing",
    JOB + "env: {A: [1]}\n": "job.yaml:10: env.A: expected text, got a list",
    COMMAND.replace("[sleep, 1]", "sleep 1"): "job.yaml:4: command: expected a list, got text"
    " (write [sleep, 1])",
    COMMAND.replace("[sleep, 1]", "[]"): "job.yaml:4: command: is empty (write [program, argument, ...])",
    COMMAND.replace("command: [sleep, 1]\n", ""): "job.yaml:1: command: is missing; task command needs it",
    COMMAND + "train: {steps: 1}\n": "job.yaml:5: train: is not used by task command"
    " (remove it, or change the task)",
    JOB
    + "jit_level: O2\n": "job.yaml:10: jit_level: O2 gives the whole graph to GE, where the groups of a job"
    " have no communicators (write O0 or O1, or leave it out)",
    JOB
    + "jit_level: O3\ndevice_target: Ascend\n": "job.yaml:10: jit_level: expected one of O0, O1; got 'O3'",
    JOB + "jit_level: O1\n": "job.yaml:10: jit_level: has no effect on a CPU"
    " (remove it, or set device_target to Ascend)",
    COMMAND + "jit_level: O1\n": "job.yaml:5: jit_level: is not used by task command"
    " (remove it; the program says it to MindSpore)",
    JOB + "  deterministic: 1\n": "job.yaml:10: train.deterministic: expected true or false, got 1",
    JOB + "  deterministic: true\nenv: {HCCL_DETERMINISTIC: ''}\n": "job.yaml:11: env.HCCL_DETERMINISTIC:"
    " is '', but train.deterministic is true (remove it: MindSpore would set it to true)",
    JOB + "env: {MS_COMPILER_CACHE_ENABLE: 1}\n": "job.yaml:10: env.MS_COMPILER_CACHE_ENABLE: would train"
    " nothing: gradients of the bundled model are 0 in graphs out of MindSpore's cache (remove it)",
    JOB + "  deterministic: true\nenv: {HCCL_DETERMINISTIC: false}\n": "job.yaml:11: env.HCCL_DETERMINISTIC:"
    " is 'false', but train.deterministic is true (remove it: MindSpore would set it to true)",
    COMMAND + "sync: [/x]\n": "job.yaml:5: sync[0]: '/x' must be relative to the job file"
    " (what is on the hosts needs no sync)",
    COMMAND + "sync: [x.py]\n": "job.yaml:5: sync[0]: no such file x.py"
    " (relative paths start at the job file; absolute ones are looked for on the hosts)",
    PREDICT.replace("[hello, 3]", "[]"): "job.yaml:6: predict.prompts: is missing"
    " (give prompts or prompts_file)",
    PREDICT.replace("/w/x.ckpt", ""): "job.yaml:5: checkpoint.load: is missing; task predict needs it"
    " (name the checkpoint to answer from)",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: WRONG[text][9:45])
def test_wrong_job(tmp_path: Path, text: str) -> None:
    assert lines_of(tmp_path, lambda: job(tmp_path, text)) == [WRONG[text]]


def test_every_problem_in_the_order_of_the_lines(tmp_path: Path) -> None:
    text = _with("devices_per_host: 2", "devices_per_host: two").replace("400", "x") + "y: 1\n"
    assert [line.split(": ")[0] for line in lines_of(tmp_path, lambda: job(tmp_path, text))] == [
        "job.yaml:3",
        "job.yaml:8",
        "job.yaml:10",
    ]


def test_missing_and_unfit_local_files(tmp_path: Path) -> None:
    text = _with("/data/x.json", "x.json, tokenizer: folder")
    (tmp_path / "folder").mkdir()
    remedy = "(relative paths start at the job file; absolute ones are looked for on the hosts)"
    assert lines_of(tmp_path, lambda: job(tmp_path, text)) == [
        f"job.yaml:6: data.path: no such file x.json {remedy}",
        "job.yaml:6: data.tokenizer: folder is a folder, not a file",
    ]


def test_paths_start_at_the_job_file(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    made = job(tmp_path, _with("/data/x.json", "x.json"))
    assert made.local_path("x.json") == tmp_path / "x.json"
    assert made.local_path("/data/x.json") is None
    assert made.where("data", "path") == f"{tmp_path}/job.yaml:6: data.path"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("train.stepz=1", "--set train.stepz: unknown key (did you mean `steps`?)"),
        ("trian.steps=1", "--set trian.steps: unknown key (did you mean `train`?)"),
        ("train.steps=ten", "--set train.steps: expected a whole number, got 'ten'"),
        ("train.steps=", "--set train.steps: is missing (give steps or epochs)"),
        (
            "train.epochs=3",
            "--set train.epochs: is given beside train.steps (keep one of them and set the other to null)",
        ),
        ("name.x=1", "--set name.x: name holds one value, not further keys"),
        ("steps", "--set steps: expected KEY=VALUE (for example --set train.steps=10)"),
        ("a..b=1", "--set a..b=1: expected KEY=VALUE (for example --set train.steps=10)"),
        (
            "hosts=[a",
            "--set hosts: a list in [ ] or a mapping in { } is not closed"
            " (put names with brackets in quotes)",
        ),
    ],
)
def test_wrong_override(tmp_path: Path, given: str, line: str) -> None:
    assert lines_of(tmp_path, lambda: job(tmp_path, JOB, given)) == [line]


def test_overrides_are_read_as_yaml(tmp_path: Path) -> None:
    made = job(
        tmp_path,
        JOB,
        "train.steps=null",
        "train.epochs=2",
        "train.learning_rate=1e-4",
        "env.V=1.10",
        "hosts=@rack1,!npu3",
        "model.overrides={hidden_size: 64}",
        "checkpoint.save_steps=5",
    )
    assert made.train is not None and (made.train.steps, made.train.epochs) == (None, 2)
    assert made.train.learning_rate == 1e-4
    assert made.env == {"V": "1.10"}
    assert made.hosts == ("@rack1,!npu3",)
    assert made.model is not None and made.model.overrides == {"hidden_size": 64}
    assert made.checkpoint.save_steps == 5


def test_text_stays_as_it_is_written(tmp_path: Path) -> None:
    env = "env: {A: 1.10, B: yes, C: 010, D: true, E: 1e3, F: 0x10}\n"
    made = job(tmp_path, COMMAND.replace("[sleep, 1]", "[run, 1.50, true, no]") + env)
    assert made.command == ("run", "1.50", "true", "no")
    assert made.env == {"A": "1.10", "B": "yes", "C": "010", "D": "true", "E": "1e3", "F": "0x10"}
    answers = job(tmp_path, PREDICT)
    assert answers.predict is not None and answers.predict.prompts == ("hello", "3")


@pytest.mark.parametrize(
    ("text", "target", "mode"),
    [
        ("", "CPU", "dynamic"),
        ("device_target: Ascend\n", "Ascend", "rank_table"),
        ("networking: {mode: rank_table}\n", "Ascend", "rank_table"),
        ("networking: {mode: rank_table, port: 8118}\n", "Ascend", "rank_table"),
        ("networking: {mode: rank_table}\ndevice_target: CPU\n", "CPU", "rank_table"),
        ("device_target: Ascend\nnetworking: {mode: dynamic, port: 8118}\n", "Ascend", "dynamic"),
        ("networking: {mode: none}\n", "CPU", "none"),
    ],
)
def test_target_and_networking_follow_each_other(tmp_path: Path, text: str, target: str, mode: str) -> None:
    made = job(tmp_path, JOB + text)
    assert (made.device_target, made.networking.mode) == (target, mode)


def test_only_programs_of_ones_own_start_by_a_table_alone(tmp_path: Path) -> None:
    made = job(tmp_path, COMMAND + "networking: {mode: legacy_rank_table}\n")
    assert (made.device_target, made.networking.mode) == ("Ascend", "legacy_rank_table")
    assert made.networking.has_table and not made.networking.has_scheduler


def test_levels_and_determinism_of_an_ascend(tmp_path: Path) -> None:
    text = JOB + "  deterministic: true\nenv: {HCCL_DETERMINISTIC: strict}\n"
    found = job(tmp_path, text + "jit_level: O0\ndevice_target: Ascend\n")
    assert found.jit_level == "O0" and found.train is not None and found.train.deterministic
    plain = job(tmp_path, JOB)
    assert plain.jit_level is None and plain.train is not None and not plain.train.deterministic


@pytest.mark.parametrize(
    ("text", "enabled", "floor", "first"),
    [
        pytest.param("", True, 60.0, 1800.0, id="absent"),
        pytest.param("health: {floor: 90, first: 1h30m}\n", True, 90.0, 5400.0, id="durations"),
        pytest.param("health: off\n", False, 60.0, 1800.0, id="off"),
        pytest.param("health: false\n", False, 60.0, 1800.0, id="false"),
        pytest.param("health: on\n", True, 60.0, 1800.0, id="on"),
        pytest.param("health: {enabled: false, floor: 2m}\n", False, 120.0, 1800.0, id="not enabled"),
    ],
)
def test_when_a_run_is_said_to_hang(
    tmp_path: Path, text: str, enabled: bool, floor: float, first: float
) -> None:
    health = job(tmp_path, COMMAND + text).health
    assert (health.enabled, health.floor, health.first) == (enabled, floor, first)
    assert (health.straggler, health.steps) == (1.3, 10)


def test_a_job_never_changes(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        job(tmp_path).name = "other"  # type: ignore[misc]


def test_a_job_survives_json(tmp_path: Path) -> None:
    made = job(tmp_path)
    again = type(made).model_validate_json(made.model_dump_json())
    assert again.model_dump() == made.model_dump()
    assert again.where("name") == "name"


@pytest.mark.parametrize("value", ["''", "[]", "{}", "false", "0"])
@pytest.mark.parametrize("key", ["networking.mode", "device_target"])
def test_an_empty_choice_is_a_wrong_one(tmp_path: Path, key: str, value: str) -> None:
    for other in ("", "device_target: Ascend\n"):
        text = COMMAND + ("" if key == "device_target" else other)
        (line,) = lines_of(tmp_path, lambda text=text: job(tmp_path, text, f"{key}={value}"))
        assert line.startswith(f"--set {key}: expected one of "), line


@pytest.mark.parametrize("key", ["networking.mode", "device_target"])
def test_null_is_not_given(tmp_path: Path, key: str) -> None:
    made = job(tmp_path, COMMAND, f"{key}=null")
    assert (made.device_target, made.networking.mode) == ("CPU", "dynamic")


def test_a_record_is_as_long_as_the_model_says_unless_the_data_do(tmp_path: Path) -> None:
    def length(text: str) -> int:
        return network_of(job(tmp_path, text)).seq_length

    assert length(JOB) == 64  # the preset's own
    longer = JOB.replace("{preset: tiny}", "{preset: tiny, overrides: {seq_length: 128}}")
    assert length(longer) == 128
    assert length(JOB.replace("x.json}", "x.json, seq_length: 32}")) == 32
    assert length(longer.replace("x.json}", "x.json, seq_length: 128}")) == 128
    assert lines_of(
        tmp_path, lambda: job(tmp_path, longer.replace("x.json}", "x.json, seq_length: 32}"))
    ) == ["job.yaml:5: model.overrides.seq_length: is 128, but data.seq_length is 32 (keep one of them)"]


def test_an_override_that_another_key_replaces_is_refused(tmp_path: Path) -> None:
    fields = "{prompt_template: belle, top_k: 3}"
    text = JOB.replace("{preset: tiny}", f"{{preset: tiny, overrides: {fields}}}")
    assert job(tmp_path, text).model is not None  # what a model that is trained is told about answering
    other = text.replace("x.json}", "x.json, template: null}")
    assert lines_of(tmp_path, lambda: job(tmp_path, other)) == [
        "job.yaml:5: model.overrides.prompt_template: is 'belle', but data.template is 'none'"
        " (keep one of them)"
    ]
    chat = "name: c\ntask: chat\ndevices_per_host: 1\nchat: {top_p: 0.9}\ncheckpoint: {load: /w.ckpt}\n"
    model = f"model: {{preset: tiny, overrides: {fields}}}\n"
    assert lines_of(tmp_path, lambda: job(tmp_path, chat + model)) == [
        "job.yaml:6: model.overrides.top_k: is not used by task chat (write it as chat.top_k)"
    ]


OWN = "name: c\ntask: command\ndevices_per_host: 1\n"


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("{rnak}", "did you mean `{rank}`?"),
        ("--rank={Rank}", "did you mean `{rank}`?"),
        ("print('{rnak}')", "did you mean `{rank}`?"),
        ("{rundir}/x", "did you mean `{run_dir}`?"),
        ("{local_rank}", "known: {python}, {rank}, {run_dir}; of the rest the environment tells"),
        ("--world={world_size}", "known: {python}, {rank}, {run_dir}; of the rest the environment tells"),
    ],
)
def test_a_placeholder_that_nobody_fills_in_is_refused(tmp_path: Path, word: str, remedy: str) -> None:
    (line,) = lines_of(tmp_path, lambda: job(tmp_path, OWN + f'command: [run, "{word}"]\n'))
    assert line.startswith("job.yaml:4: command[1]: '{") and line.endswith(f" is not filled in ({remedy})")


@pytest.mark.parametrize(
    "word",
    [
        "{rank}-{run_dir}/{python}",
        "{}",
        "${HOME}",
        "{{name}}",
        "{a,b}",
        '{\\"rank_x\\": 1}',
        "f'{name} of {size}'",
        "for x in y; do {print}; done",
        "{1..3}",
    ],
)
def test_other_braces_are_the_programs_own(tmp_path: Path, word: str) -> None:
    assert job(tmp_path, OWN + f'command: [run, "{word}"]\n').command is not None


def test_a_python_path_beside_the_bundled_code_has_no_placeholder(tmp_path: Path) -> None:
    assert lines_of(tmp_path, lambda: job(tmp_path, JOB + 'env: {PYTHONPATH: "{run_dir}/x"}\n')) == [
        "job.yaml:10: env.PYTHONPATH: holds a placeholder, and none is filled in in env (write the path)"
    ]


@pytest.mark.parametrize(
    ("command", "script"),
    [
        ("{python} train.py --x 1", 1),
        ("python3.11 -u -X dev -W ignore src/train.py", 6),
        ("python -O train.py data.txt", 2),
        ("bash -O extglob run.sh data.txt", 3),
        ("bash -eu -o pipefail run.sh", 4),
        ("./run.sh", 0),
        ("bin/train", 0),
        ("train.py", 0),
        ("bash -c run.sh", None),
        ("bash -euxc run.sh", None),
        ("python -m package x.py", None),
        ("python -V", None),
        ("python", None),
        ("/opt/x.py", None),
        ("python /opt/x.py", None),
        ("python {run_dir}/x.py", None),
        ("hostname", None),
        ("{run_dir}/x", None),
    ],
)
def test_which_word_of_a_command_is_the_script(command: str, script: int | None) -> None:
    assert script_of(command.split()) == script


@pytest.mark.parametrize("given", ["env.=s3cr3t", "env..A=s3cr3t"])
def test_a_value_that_goes_nowhere_is_not_shown(tmp_path: Path, given: str) -> None:
    (line,) = lines_of(tmp_path, lambda: job(tmp_path, JOB, given))
    assert "expected KEY=VALUE" in line and "s3cr3t" not in line


@pytest.mark.parametrize(
    ("restart", "line"),
    [
        ("{max: 1, on: []}", "is empty: nothing would make the run go on (name what does, or set max to 0)"),
        ("{max: 1, on: [fire]}", "expected one of crash, host, hang, device; got 'fire'"),
        ("{max: -1}", "must be at least 0, got -1"),
        ("{window: 0}", "must be greater than 0, got 0"),
        ("{min_hosts: 0}", "must be greater than 0, got 0"),
    ],
)
def test_a_policy_without_a_meaning_is_refused(tmp_path: Path, restart: str, line: str) -> None:
    (found,) = lines_of(tmp_path, lambda: job(tmp_path, JOB + f"restart: {restart}\n"))
    assert found.startswith("job.yaml:10: restart.") and line in found


def test_more_hosts_at_least_than_the_job_has_are_refused(tmp_path: Path) -> None:
    text = JOB + "host_count: 2\nrestart: {max: 1, min_hosts: 3}\n"
    assert lines_of(tmp_path, lambda: job(tmp_path, text)) == [
        "job.yaml:11: restart.min_hosts: must be at most host_count 2, got 3 "
        "(null: the run goes on only with all hosts)"
    ]


def test_a_chat_and_a_prediction_may_go_on_too(tmp_path: Path) -> None:
    assert job(tmp_path, PREDICT + "restart: {max: 2}\n").restart.max == 2


def test_shipped_trainings_go_on_by_themselves() -> None:
    folder = Path(__file__).parents[2] / "jobs"
    made = {path.stem: load_job(path) for path in folder.glob("*.yaml")}
    trains = {name for name, each in made.items() if each.train is not None}
    assert trains and {name: made[name].restart.max for name in trains} == dict.fromkeys(trains, 3)
