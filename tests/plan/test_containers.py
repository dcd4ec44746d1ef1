"""Containers in jobs and inventories: how the two are combined, what is refused, what a host is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from orchestrator.agent.container_command import labels_of, run_command
from orchestrator.config.container import Container, combined, seen_at
from orchestrator.core.container_records import ContainerSpec, Mount
from orchestrator.plan.make_plan import make_plan
from orchestrator.plan.next_plan import next_plan
from orchestrator.plan.spare_hosts import kept_inventory
from tests.config.support import inventory, job, lines_of

HOSTS = """\
defaults:
  devices: 0-1
  container: {image: old, runtime: podman, mounts: ["/data:/data:ro", /w:/w], options: [--cap-add=SYS_NICE]}
hosts:
  - {name: a, address: 10.0.0.1}
  - {name: b, address: 10.0.0.2, container: {image: "mf:1.9"}}
  - {name: c, address: 10.0.0.3, container: off}
"""
JOB = """\
name: cmd
task: command
devices_per_host: 2
networking: {mode: none}
command: [run, "{rank}"]
"""


def test_keys_are_combined_one_by_one_and_the_jobs_win(tmp_path: Path) -> None:
    mine = JOB + "container: {python: /opt/py, mounts: ['/other:/data'], options: [--privileged]}\n"
    plan = make_plan(job(tmp_path, mine + "hosts: a,b\n"), inventory(tmp_path, HOSTS), now=0.0)
    assert plan.manifests["a"].container == ContainerSpec(
        image="old",
        runtime="podman",
        python="/opt/py",
        mounts=(Mount("/w", "/w"), Mount("/other", "/data")),
        options=("--cap-add=SYS_NICE", "--privileged"),
    )
    assert plan.manifests["b"].container is not None and plan.manifests["b"].container.image == "mf:1.9"
    again = next_plan(plan, job(tmp_path, mine + "hosts: a,b\n"), kept_inventory(plan))
    assert again.manifests["a"].container == plan.manifests["a"].container


def test_off_is_no_container(tmp_path: Path) -> None:
    plan = make_plan(job(tmp_path, JOB), inventory(tmp_path, HOSTS), now=0.0)
    assert plan.manifests["c"].container is None and plan.manifests["a"].container is not None
    plan = make_plan(job(tmp_path, JOB + "container: off\n"), inventory(tmp_path, HOSTS), now=0.0)
    assert {manifest.container for manifest in plan.manifests.values()} == {None}
    assert {host.container for host in plan.hosts} == {None}


def test_without_an_image_there_is_no_container_to_make(tmp_path: Path) -> None:
    hosts = "defaults: {devices: 0-1}\nhosts:\n  - {name: a, address: 10.0.0.1}\n"
    mine, inv = job(tmp_path, JOB + "container: {runtime: podman}\n"), inventory(tmp_path, hosts)
    assert lines_of(tmp_path, lambda: make_plan(mine, inv, now=0.0)) == [
        "job.yaml:6: container.image: is missing: nothing says which image the workers of a run in"
        " (write `container: {image: NAME}`, or `container: off`)"
    ]


def test_data_that_no_mount_covers_is_refused(tmp_path: Path) -> None:
    text = """\
name: demo
task: finetune
devices_per_host: 2
model: {preset: tiny}
data: {path: /sets/a.json, seq_length: 8}
train: {steps: 4, batch_size: 2}
container: {image: x, mounts: ["/else:/elsewhere"]}
"""
    hosts = "defaults: {devices: 0-1}\nhosts:\n  - {name: a, address: 10.0.0.1}\n"
    mine, inv = job(tmp_path, text), inventory(tmp_path, hosts)
    assert (
        "container.mounts: /sets/a.json is not seen in the container on a: no mount covers it"
        " (add `/sets:/sets:ro` to container.mounts)"
        in lines_of(tmp_path, lambda: make_plan(mine, inv, now=0.0))[0]
    )
    covered = text.replace("/else:/elsewhere", "/disk/sets:/sets:ro")
    plan = make_plan(job(tmp_path, covered), inventory(tmp_path, hosts), now=0.0)
    assert plan.hosts[0].container is not None
    assert seen_at(plan.hosts[0].container, plan.host_paths[0]) == "/disk/sets/a.json"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("{image: '--rm'}", "container.image: '--rm' is not the name of an image"),
        ("{image: x, runtime: lxc}", "container.runtime: expected one of docker, podman, nerdctl; got 'lxc'"),
        ("{image: x, mounts: [data]}", "container.mounts[0]: expected SRC:DST or SRC:DST:ro, got 'data'"),
        ("{image: x, mounts: ['/a:/b:rx']}", "container.mounts[0]: expected SRC:DST or SRC:DST:ro"),
        ("{image: x, mounts: ['/a:/b/../c']}", "container.mounts[0]: '/a:/b/../c' cannot be mounted"),
        ("{image: x, mounts: ['/a:/']}", "container.mounts[0]: '/a:/' cannot be mounted"),
        ("{image: x, options: [--name=me]}", "container.options[0]: --name is not for options"),
        ("{image: x, options: [-v, /a:/a]}", "container.options[0]: -v is not for options"),
        ("{image: x, options: [-v/a:/a]}", "container.options[0]: '-v/a:/a' cannot be told apart"),
        ("{image: x, options: [--pid=host]}", "container.options[0]: --pid is not for options"),
        ("{image: x, options: [-Pv/a:/a]}", "container.options[0]: '-Pv/a:/a' cannot be told apart"),
        *[
            (
                f"{{image: x, options: ['{word}']}}",
                f"container.options[0]: {name} is not for options: values do not go into command lines: "
                "write them under the job's `env:`",
            )
            for word, name in (
                ("--env=TOKEN=1", "--env"),
                ("--env", "--env"),
                ("-e", "-e"),
                ("-e=TOKEN=1", "-e"),
                ("-eTOKEN=1", "-e"),
                ("--env-file=/f", "--env-file"),
                ("--env-host", "--env-host"),
                ("--env-host=true", "--env-host"),
                ("--env-merge=TOKEN=1", "--env-merge"),
            )
        ],
        *[
            (
                f"{{image: x, options: ['{word}']}}",
                f"container.options[0]: '{word}' is not for options: each worker is given its own device",
            )
            for word in (
                "--device=/dev/davinci3",
                "/dev/davinci3",
                "--device=//dev//davinci3:/dev/davinci0:rwm",
                "--device=/dev",
                "--device=/dev/:/dev:r",
                "--env=ASCEND_VISIBLE_DEVICES=3",
                "ASCEND_VISIBLE_DEVICES=0-7",
                "--annotation=ASCEND_RT_VISIBLE_DEVICES=3",
            )
        ],
        *[
            (
                f"{{image: x, options: ['{word}']}}",
                f"container.options[0]: expected --privileged or --privileged=true, got '{word}'",
            )
            for word in ("--privileged=True", "--privileged=1", "--privileged=t", "--privileged=false")
        ],
        ("{image: x, mount: []}", "container.mount: unknown key (did you mean `mounts`?)"),
        ("podman", "container: expected"),
    ],
)
def test_what_cannot_be_one(tmp_path: Path, given: str, line: str) -> None:
    (first, *_) = lines_of(tmp_path, lambda: job(tmp_path, JOB + f"container: {given}\n"))
    assert first.startswith(f"job.yaml:6: {line}")


def test_the_nearer_one_wins() -> None:
    near, far = Container(image="near"), Container(image="far", runtime="podman", options=("--x",))
    both = combined(near, far)
    assert both is not None and (both.image, both.runtime, both.options) == ("near", "podman", ("--x",))
    assert combined(None, far) is far and combined(near, None) is near
    off = Container(enabled=False)
    assert combined(off, far) is off
    on = combined(near, off)
    assert on is not None and on.enabled


def test_what_options_may_say_of_devices(tmp_path: Path) -> None:
    for words, sees_all in (
        (["--privileged"], True),
        (["--privileged=true"], True),
        (["--device=/dev/fuse", "--device", "/dev/infiniband/uverbs0", "--cap-add=SYS_NICE"], False),
    ):
        container = f"container: {{image: x, options: {words}}}"
        hosts = f"defaults: {{devices: 0-1, {container}}}\nhosts: [{{name: a, address: 10.0.0.1}}]\n"
        spec = make_plan(job(tmp_path, JOB), inventory(tmp_path, hosts), now=0.0).manifests["a"].container
        assert spec is not None and (spec.options, spec.is_privileged) == (tuple(words), sees_all)


# What the runtime is told.


def command(spec: ContainerSpec, device: int = 3, root: str = "/") -> tuple[list[str], list[str]]:
    labels = labels_of("run-1", "1-abc", 5, "npu1")
    return run_command(
        spec, run_dir="/w/a b,c", device_id=device, labels=labels, cid_file="/c", inner=["-I", "x"], root=root
    )


def test_no_shell_no_name_and_a_label_for_each_of_its_places() -> None:
    argv, missing = command(ContainerSpec(image="img:1", options=("--shm-size=1g",)))
    assert argv[:2] == ["docker", "run"] and argv[-4:] == ["--shm-size=1g", "img:1", "-I", "x"]
    assert [word for word in argv if word.startswith("--label")] == [
        "--label=orchestrate.run=run-1",
        "--label=orchestrate.attempt=1-abc",
        "--label=orchestrate.rank=5",
        "--label=orchestrate.host=npu1",
    ]
    assert '--mount=type=bind,"source=/w/a b,c","target=/w/a b,c"' in argv
    assert {"--rm", "--pull=never", "--network=host", "--ipc=host", "--entrypoint=python3"} <= set(argv)
    assert not any(word.startswith(("--name", "--device", "--env")) for word in argv) and missing == []


def ascend_root(folder: Path) -> str:
    for path in ("dev/davinci3", "dev/davinci_manager", "dev/devmm_svm", "dev/hisi_hdc", "etc/hccn.conf"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    (folder / "usr/local/Ascend/driver").mkdir(parents=True)
    return str(folder)


def test_an_ascend_gets_its_own_device_and_the_driver_and_what_is_missing_is_said(tmp_path: Path) -> None:
    argv, missing = command(ContainerSpec(image="x", ascend=True), root=ascend_root(tmp_path))
    devices = ["/dev/davinci3", "/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"]
    assert [word[9:] for word in argv if word.startswith("--device=")] == devices
    mounts = [word for word in argv if word.startswith("--mount=")]
    assert mounts[1:] == [
        f"--mount=type=bind,source={path},target={path},readonly"
        for path in ("/usr/local/Ascend/driver", "/etc/hccn.conf")
    ]
    assert missing == ["/usr/local/dcmi", "/usr/local/bin/npu-smi", "/etc/ascend_install.info"]
    _, missing = command(ContainerSpec(image="x", ascend=True), 4, root=ascend_root(tmp_path / "2"))
    assert "/dev/davinci4" in missing


def test_the_scheduler_has_no_device_and_a_privileged_container_has_all(tmp_path: Path) -> None:
    root = ascend_root(tmp_path)
    argv, _ = command(ContainerSpec(image="x", ascend=True), -1, root=root)
    assert "--device=/dev/davinci3" not in argv and "--device=/dev/davinci_manager" in argv
    argv, _ = command(ContainerSpec(image="x", ascend=True, options=("--privileged",)), root=root)
    assert not any(word.startswith("--device") for word in argv)


def test_a_mount_of_the_job_goes_before_the_drivers(tmp_path: Path) -> None:
    spec = ContainerSpec(image="x", ascend=True, mounts=(Mount("/my/driver", "/usr/local/Ascend/driver"),))
    argv, _ = command(spec, root=ascend_root(tmp_path))
    assert len([word for word in argv if "target=/usr/local/Ascend/driver" in word]) == 1


def test_a_plan_without_containers_says_nothing_of_them(tmp_path: Path) -> None:
    hosts = "defaults: {devices: 0-1}\nhosts:\n  - {name: a, address: 10.0.0.1}\n"
    plan = make_plan(job(tmp_path, JOB), inventory(tmp_path, hosts), now=0.0)
    assert plan.manifests["a"].container is None and yaml.safe_load(plan.worker_config)["task"] == "command"
