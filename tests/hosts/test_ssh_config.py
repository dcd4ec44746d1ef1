"""SSH client configurations mean what `ssh -G HOST` says: generated, published, and what is refused.

Seeded. SSH_CONFIGS is how many are generated, `make test-long` takes 2,000; SSH_CONFIGS_FROM is the first
seed.
"""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import time
from pathlib import Path

import pytest

from orchestrator.config.inventory import Host, SshOptions
from orchestrator.core.errors import ConfigError
from orchestrator.hosts.open_transport import ssh_name
from orchestrator.hosts.ssh.client_config import Asked, Settings, read_settings
from orchestrator.hosts.ssh.config_lines import Doubt
from orchestrator.hosts.ssh.config_values import fits
from orchestrator.hosts.ssh.host_route import Way, find_way
from orchestrator.hosts.ssh.ssh_config import ask_ssh, place_of, settings_of
from tests.hosts.ssh_config_cases import HOSTS, PUBLISHED, spoil, write_config

CASES = int(os.environ.get("SSH_CONFIGS", "100"))
FIRST = int(os.environ.get("SSH_CONFIGS_FROM", "0"))
SSH = shutil.which("ssh") or ""

needs_ssh = pytest.mark.skipif(
    not SSH, reason="ssh is not installed (Debian: apt-get install openssh-client)"
)


def ours(asked: Asked, config: Path) -> Settings | None:
    """Without anybody to ask; None where only ssh can judge."""
    try:
        return read_settings(asked, place_of(str(config)))
    except Doubt:
        return None


def theirs(asked: Asked, config: Path) -> Settings | None:
    """What the real one says; None where it refuses the file."""
    try:
        return ask_ssh(asked, place_of(str(config)), SSH, Doubt("", ""))
    except ConfigError:
        return None


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    # ssh takes the home of the password file, and none of HOME.
    monkeypatch.setenv("HOME", os.path.expanduser(f"~{os.environ.get('USER', '') or 'root'}"))
    monkeypatch.setenv("MY_AGENT", "/run/agent")


def difference(left: Settings, right: Settings) -> dict[str, tuple[object, object]]:
    """What is not the same, as `ssh -G` prints it: with blanks between the paths of a list."""
    fields = [each.name for each in dataclasses.fields(left)]
    pairs = {name: (getattr(left, name), getattr(right, name)) for name in fields}
    return {name: pair for name, pair in pairs.items() if _printed(pair[0]) != _printed(pair[1])}


def _printed(value: object) -> object:
    return " ".join(value) if isinstance(value, tuple) else value


@needs_ssh
def test_generated_configurations_mean_what_ssh_says(tmp_path: Path) -> None:
    refused = compared = 0
    for seed in range(FIRST, FIRST + CASES):
        rng = random.Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        config = write_config(folder, rng)
        asked = Asked(rng.choice(HOSTS), rng.choice((None, None, "root")), rng.choice((None, None, 2200)))
        found, expected = ours(asked, config), theirs(asked, config)
        if expected is None:
            assert found is None, (seed, asked, "ssh refuses it")
        elif found is None:
            refused += 1
        else:
            compared += 1
            assert not difference(found, expected), (seed, asked, difference(found, expected))
        shutil.rmtree(folder)
    assert refused <= CASES * 0.02
    assert compared > CASES * 0.85


@needs_ssh
def test_what_is_read_of_spoilt_configurations_is_what_ssh_reads(tmp_path: Path) -> None:
    """Most of these are refused, by both. What is not is no guess."""
    compared = 0
    for seed in range(FIRST, FIRST + CASES):
        rng = random.Random(f"spoilt {seed}")
        folder = tmp_path / str(seed)
        folder.mkdir()
        config = write_config(folder, rng)
        spoil(config, rng)
        asked = Asked(rng.choice(HOSTS))
        if (found := ours(asked, config)) is not None:
            expected = theirs(asked, config)
            assert expected is not None, (seed, asked, "ssh refuses it")
            assert not difference(found, expected), (seed, asked, difference(found, expected))
            compared += 1
        shutil.rmtree(folder)
    assert compared > CASES * 0.1


@needs_ssh
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_mean_what_ssh_says(name: str, tmp_path: Path) -> None:
    text, hosts = PUBLISHED[name]
    config = tmp_path / "config"
    config.write_text(text)
    for host in hosts:
        found, expected = ours(Asked(host), config), theirs(Asked(host), config)
        assert found is not None and expected is not None
        assert not difference(found, expected)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("Match localnetwork 10.0.0.0/8", "2: match: asks about `localnetwork`"),
        ("CanonicalizeHostname yes", "2: canonicalizehostname: has names looked up"),
        ("CanonicalizePermittedCNAMEs *.a:*.b", "2: canonicalizepermittedcnames: follows the names"),
        ("NoSuchOption yes", "2: nosuchoption: is not a known option"),
        ("Port twelve", "2: port: has the value 'twelve'"),
        ('HostName "a', "2: hostname: has quotes"),
        ("HostName %q", "2: hostname: has %q"),
        ("UserKnownHostsFile ${NO_SUCH_VARIABLE}", "2: userknownhostsfile: has ${NO_SUCH_VARIABLE}"),
        ("ProxyJump npu1", "2: proxyjump: has npu1 jump through itself"),
        ("Include %d/x", "2: include: includes %d/x"),
        ("IdentityAgent ~nobodyhere/agent", "2: identityagent: has '~nobodyhere/agent', and no such user"),
    ],
)
def test_what_only_ssh_can_judge_is_refused_by_name_where_there_is_none(
    line: str, says: str, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host *\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        settings_of(Asked("npu1"), str(config), ssh=None)
    assert str(caught.value).startswith(f"{config}:{says}")


@needs_ssh
def test_what_only_ssh_can_judge_is_asked_of_it(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        "Match !final host npu*\n  User a\nHost npu1\n  HostName 'b'\n  CanonicalizeHostname no\n"
    )
    assert ours(Asked("npu1"), config) is None
    found = settings_of(Asked("npu1", port=7), str(config))
    assert (found.user, found.hostname, found.port, found.identity_files) == ("a", "b", 7, ())
    config.write_text("Port twelve\n")
    with pytest.raises(ConfigError, match=r"config:1: port: ssh refuses it: .*line 1: Bad port 'twelve'"):
        settings_of(Asked("npu1"), str(config))


def hops(way: Way | None) -> list[str]:
    found = []
    while way is not None:
        found.append(f"{way.settings.user}@{way.settings.hostname}:{way.settings.port}")
        way = way.before
    return found[::-1]


def way_of(host: str, text: str, tmp_path: Path) -> Way:
    config = tmp_path / "config"
    config.write_text(text)
    return find_way(Asked(host), lambda asked: settings_of(asked, str(config), ssh=None))


def test_the_first_jump_host_of_a_list_comes_first(tmp_path: Path) -> None:
    text = (
        "Host b1\n HostName 10.0.0.1\n Port 24101\nHost b2\n HostName 10.0.0.2\n ProxyJump elsewhere\n"
        "Host target\n HostName 10.0.0.3\n ProxyJump b1,ops@b2:24102\nHost *\n User root\n"
    )
    assert hops(way_of("target", text, tmp_path)) == [
        "root@10.0.0.1:24101",
        "ops@10.0.0.2:24102",
        "root@10.0.0.3:22",
    ]


def test_a_jump_host_has_jump_hosts_of_its_own(tmp_path: Path) -> None:
    text = "Host a\n ProxyJump b\nHost b\n ProxyJump c\nHost *\n User u\nHost c\n ProxyJump none\n"
    assert hops(way_of("a", text, tmp_path)) == ["u@c:22", "u@b:22", "u@a:22"]


def test_jump_hosts_in_a_circle(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leads in a circle"):
        way_of("a", "Host a\n ProxyJump b\nHost b\n ProxyJump a\n", tmp_path)


def test_the_name_of_a_host_comes_of_the_config(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Match final all\n  ForwardX11Trusted yes\nHost npu*\n  HostName %h.lab\n")
    options = SshOptions(config_file=str(config))
    assert ssh_name(Host(name="npu1"), options) == "npu1.lab"
    assert ssh_name(Host(name="other"), options) == "other"


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    assert way_of("a", "User one\n", tmp_path).settings.user == "one"
    assert way_of("a", "User three\n", tmp_path).settings.user == "three"


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        ("*", ("", "a", "a\nb"), ()),
        ("a*b*c", ("abc", "a-b-b-c", "abbcc"), ("ab", "acb", "xabc", "abcx")),
        ("*.lab", (".lab", "a.lab", "a.lab.lab"), ("lab", "a.labx")),
        ("n?u*", ("npu", "npu01"), ("nu", "nppu")),
        ("[a-z]", ("[a-z]",), ("a",)),
        ("a**?", ("ab", "abc"), ("a",)),
        ("", ("",), ("a",)),
    ],
)
def test_patterns(pattern: str, fitting: tuple[str, ...], others: tuple[str, ...]) -> None:
    assert all(fits(text, pattern) for text in fitting)
    assert not any(fits(text, pattern) for text in others)


def test_a_megabyte_is_read_in_no_time(tmp_path: Path) -> None:
    config = tmp_path / "config"
    blocks = [f"Host n{each} *{'a*' * 20}b\n  HostName 10.0.0.1\n" for each in range(14_000)]
    config.write_text("".join(blocks))
    assert config.stat().st_size > 900_000
    began = time.process_time()
    assert settings_of(Asked("a" * 60), str(config), ssh=None).hostname == "a" * 60
    assert time.process_time() - began < 5.0


def test_the_usual_file_may_be_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / "dotfile").touch()
    (tmp_path / ".ssh" / "config").symlink_to(tmp_path / "dotfile")
    for name in ("~/.ssh/config", str(tmp_path / "dotfile")):
        assert [path.name for path in place_of(name).files] == [Path(name).name, "ssh_config"]
