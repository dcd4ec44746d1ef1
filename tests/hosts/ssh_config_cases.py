"""Generated SSH client configurations: files of the kinds that people write, from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

__all__ = ["HOSTS", "ODD", "PUBLISHED", "spoil", "write_config"]

HOSTS = ("npu01", "npu2.lab", "NPU01", "10.1.2.3", "127.1", "gate", "b1", "::1", "db.example.org")
USERS = ("root", "ma-user", "HwHiAiUser", "ops")
NAMES = ("npu01.lab", "10.0.0.%h", "%h.example.org", "10.1.2.3", "FE80::1", "Gate.Lab", "100%%", "127.1")
PATTERNS = ("npu*", "*", "npu0?", "!npu01", "*.lab", "10.1.*", "NPU*", "b1", "gate", "!*.org", "db.*", "??")


def write_config(folder: Path, rng: random.Random) -> Path:
    """A configuration in `folder`, with the files that it includes."""
    for name in ("10-site.conf", "20-lab.conf", "other"):
        path = folder / name
        path.write_text("\n".join(_block(rng, folder, depth=1) for _ in range(rng.randint(0, 2))) + "\n")
        path.chmod(0o600)
    blocks = [_lines(rng, folder, rng.randint(0, 2), depth=0)]
    blocks += [_block(rng, folder, depth=0) for _ in range(rng.randint(1, 5))]
    config = folder / "config"
    config.write_text(rng.choice(("\n", "\r\n", "\n\n")).join(blocks) + rng.choice(("\n", "", "\n# end")))
    config.chmod(0o600)
    return config


def _block(rng: random.Random, folder: Path, depth: int) -> str:
    head = _host(rng) if rng.random() < 0.55 else _match(rng)
    return f"{head}\n{_lines(rng, folder, rng.randint(0, 5), depth)}"


def _host(rng: random.Random) -> str:
    patterns = [rng.choice(PATTERNS) for _ in range(rng.randint(1, 3))]
    return _spelled(
        rng, "Host", rng.choice((" ", "\t", "  ")).join(map(lambda each: _quoted(rng, each), patterns))
    )


def _match(rng: random.Random) -> str:
    criteria: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        criteria.append(rng.choice(("", "", "", "!")) + rng.choice(_CRITERIA)(rng))
    if rng.random() < 0.25:
        criteria = [*criteria[:1], "all"] if rng.random() < 0.3 else ["all"]
    if rng.random() < 0.15:
        criteria = ["final", *rng.choice((["all"], criteria))]
    if rng.random() < 0.05:
        criteria = ["canonical", *criteria]
    tail = rng.choice(("", "", "", "  # why"))
    return _spelled(rng, "Match", " ".join(criteria)) + tail


def _list(rng: random.Random, choices: tuple[str, ...]) -> str:
    return ",".join(rng.choice(choices) for _ in range(rng.randint(1, 3)))


_CRITERIA: tuple[Callable[[random.Random], str], ...] = (
    lambda rng: f"host {_list(rng, PATTERNS)}",
    lambda rng: f"host={_list(rng, PATTERNS)}",
    lambda rng: f"originalhost {_list(rng, PATTERNS)}",
    lambda rng: f'Host "{_list(rng, PATTERNS)}"',
    lambda rng: f"user {_list(rng, (*USERS, 'ro*', '!ops'))}",
    lambda rng: f"localuser {_list(rng, ('root', 'nobody', 'r*', '!root'))}",
    lambda rng: f'exec "{rng.choice(_COMMANDS)}"',
    lambda rng: f"exec {rng.choice(('true', 'false', '/bin/true'))}",
)
_COMMANDS = (
    "true",
    "false",
    "test %h = npu01",
    "test %n = NPU01 -a %p -gt 22",
    "test '%r' = root && test %u != nobody",
    "test -n '%d' -a '%l' = '%l' -a %i -ge 0",
    "test $(echo %k) = %h",
    "test 100%% = 100%%",
    "test $HOME = %d",
)


def _lines(rng: random.Random, folder: Path, count: int, depth: int) -> str:
    lines = []
    for _ in range(count):
        name, value = rng.choice(_OPTIONS)(rng, folder)
        if name == "Include" and depth:
            continue
        lines.append(rng.choice(("", "  ", "\t")) + _spelled(rng, name, value))
        if rng.random() < 0.1:
            lines.append(rng.choice(("# note", "", "   ", '#"note', "\t# Host *")))
    return "\n".join(lines)


def _spelled(rng: random.Random, name: str, value: str) -> str:
    name = rng.choice((name, name, name.lower(), name.upper()))
    between = rng.choice((" ", " ", " ", "=", " = ", "\t", "  "))
    return f"{name}{between}{value}" + rng.choice(("", "", "", " ", "\t"))


def _quoted(rng: random.Random, value: str) -> str:
    kind = rng.random()
    if kind < 0.08:
        return f'"{value}"'
    if kind < 0.11 and " " not in value:
        return f"'{value}'"
    if kind < 0.13 and " " not in value and len(value) > 2:
        return f'{value[:2]}"{value[2:]}"'
    return (
        value.replace(" ", "\\ ")
        if kind > 0.6 and " " in value
        else (f'"{value}"' if " " in value else value)
    )


def _word(name: str, *values: str) -> Callable[[random.Random, Path], tuple[str, str]]:
    def make(rng: random.Random, folder: Path) -> tuple[str, str]:
        tail = " # why" if rng.random() < 0.08 else ""
        return name, _quoted(rng, rng.choice(values)) + tail

    return make


def _jump(rng: random.Random, folder: Path) -> tuple[str, str]:
    hops = [
        rng.choice(("", "", "ops@", "o@lab@"))
        + rng.choice(("gate", "b1", "10.9.9.9", "[::1]"))
        + rng.choice(("", ":2222"))
        for _ in range(rng.choice((1, 1, 2, 3)))
    ]
    if rng.random() < 0.15:
        hops[rng.randrange(len(hops))] = "ssh://ops@gate.lab:2200"
    return "ProxyJump", rng.choice((",".join(hops), ",".join(hops), ",".join(hops), "none", "NONE"))


def _include(rng: random.Random, folder: Path) -> tuple[str, str]:
    return "Include", rng.choice(
        (
            f"{folder}/*.conf",
            f"{folder}/other",
            f"{folder}/nothing*",
            f"{folder}/other {folder}/2*",
            "no-such-file",
        )
    )


_OPTIONS: tuple[Callable[[random.Random, Path], tuple[str, str]], ...] = (
    _word("HostName", *NAMES),
    _word("HostName", *NAMES),
    _word("User", *USERS),
    _word("User", *USERS),
    _word("Port", "22", "2222", "024"),
    _jump,
    _jump,
    _include,
    _include,
    _word(
        "IdentityFile", "~/.ssh/id_lab", "~/.ssh/%r@%h", "/keys/my key", "${HOME}/k", "none", "%d/.ssh/id_rsa"
    ),
    _word("IdentityFile", "~/.ssh/id_lab", "~/.ssh/id_rsa"),
    _word("CertificateFile", "~/.ssh/id_lab-cert.pub", "/keys/c"),
    _word("IdentitiesOnly", "yes", "no", "YES"),
    _word("IdentityAgent", "none", "SSH_AUTH_SOCK", "~/agent", "/run/%u/agent", "$MY_AGENT"),
    _word("HostKeyAlias", "Alias-%h", "npu"),
    _word("UserKnownHostsFile", "/dev/null", "~/.ssh/known_lab", "none", "${HOME}/kh", "~/.ssh/kh_%k"),
    _word("GlobalKnownHostsFile", "/dev/null", "/etc/ssh/kh", "none"),
    lambda rng, folder: ("UserKnownHostsFile", "~/.ssh/a ~/.ssh/b"),
    _word("RevokedHostKeys", "/etc/ssh/revoked", "none"),
    _word("AddressFamily", "inet", "inet6", "any"),
    _word("BindAddress", "10.0.0.1"),
    _word("StrictHostKeyChecking", "no", "accept-new", "ask"),
    _word("ConnectTimeout", "5", "1m30s", "none"),
    _word("ServerAliveInterval", "30", "1m"),
    _word("Compression", "yes", "no"),
    _word("PubkeyAuthentication", "yes", "no"),
    _word("ForwardAgent", "yes", "no"),
    _word("LogLevel", "ERROR", "quiet", "DEBUG3"),
    _word("ControlMaster", "auto"),
    _word("ControlPath", "~/.ssh/cm-%r@%h:%p", "none"),
    _word("ControlPersist", "10m", "yes"),
    _word("Ciphers", "aes128-gcm@openssh.com,aes256-ctr", "^aes128-ctr"),
    _word("KexAlgorithms", "+diffie-hellman-group14-sha1"),
    _word("HostKeyAlgorithms", "+ssh-rsa", "ssh-ed25519"),
    lambda rng, folder: ("SendEnv", "LANG LC_*"),
    lambda rng, folder: ("SetEnv", rng.choice(('A=1 B="two words"', "X=%h"))),
    lambda rng, folder: ("LocalForward", "8080 localhost:80"),
    lambda rng, folder: (
        "ProxyCommand",
        rng.choice(("nc -X 5 %h %p 2>/dev/null # x", "none", "ssh -W %h:%p gate")),
    ),
    lambda rng, folder: ("RekeyLimit", rng.choice(("1G 1h", "default none", "512M"))),
    lambda rng, folder: ("IPQoS", rng.choice(("af21 cs1", "throughput"))),
    lambda rng, folder: ("GSSAPIAuthentication", "yes"),
    lambda rng, folder: ("IgnoreUnknown", "UseKeychain,Foo*"),
)

# As found in the wild: a system's own file (RHEL, Fedora, EulerOS), bastions, a cluster's, an editor's.
PUBLISHED: dict[str, tuple[str, tuple[str, ...]]] = {
    "a system file that asks for the final reading": (
        "Host *\n  SendEnv LANG\nMatch final all\n  ForwardX11Trusted yes\n",
        ("npu01", "10.0.0.1"),
    ),
    "the same with what it includes": (
        "Match final all\n\tInclude /no/such/crypto-policies.config\n\tGSSAPIAuthentication yes\n"
        "\tForwardX11Trusted yes\n\tSendEnv LANG LC_CTYPE LC_NUMERIC LC_TIME\n\tSendEnv XMODIFIERS\n",
        ("npu01",),
    ),
    "two bastions": (
        "Host b1\n  HostName 127.0.0.21\n  Port 24101\nHost b2\n  HostName 127.0.0.22\n  Port 24102\n"
        "Host target\n  HostName 127.0.0.23\n  Port 24103\n  ProxyJump b1,b2\nHost *\n  User root\n",
        ("target", "b1", "b2", "other"),
    ),
    "a cluster behind a login node": (
        "# cluster\nHost login login.lab\n    HostName login.lab.example.org\n    User ma-user\n"
        "    ControlMaster auto\n    ControlPath ~/.ssh/cm-%r@%h:%p\n    ControlPersist 10m\n\n"
        "Host node-* !node-gw\n    User=HwHiAiUser\n    ProxyCommand ssh -q -W %h:%p login\n"
        "    StrictHostKeyChecking no\n    UserKnownHostsFile=/dev/null\n    LogLevel ERROR\n"
        'Host *\n    IdentityFile "~/.ssh/id lab"\n    ServerAliveInterval 60\n',
        ("login", "node-1", "node-gw", "LOGIN.lab"),
    ),
    "a laptop's, with options of its own system": (
        "IgnoreUnknown UseKeychain\nHost *\n  UseKeychain yes\n  AddKeysToAgent yes\n  IdentitiesOnly yes\n"
        "Match originalhost npu* exec \"test '%n' = npu9\"\n  HostName 10.9.9.9\n"
        "Match host 10.9.* user root,ops\n  Port 2222\nMatch localuser nobody\n  User nobody\n",
        ("npu9", "npu1", "elsewhere"),
    ),
}

# Lines that versions of ssh read each in its way, that are wrong, or that look so.
ODD = (
    *(
        "Match",
        "Host",
        "Match final",
        "Match host",
        "Match all host x",
        "Match user root exec",
        "Include",
        "User",
    ),
    *(
        "Port 0",
        "Port 65536",
        "Port 00022",
        "Compression true",
        "HostName ''",
        "ProxyJump a,,b",
        "ProxyJump @a",
    ),
    *(
        "ProxyJump a:0",
        "ProxyJump a:b",
        "ProxyJump [a]b",
        "ProxyJump none,a",
        "ProxyJump a/b",
        "ProxyCommand=x",
    ),
    *(
        "ProxyCommand none # x",
        "ProxyCommand 'open",
        "IdentityFile a b",
        "IdentityFile a\\ b",
        "User a#b",
        "User 'a'b",
    ),
    *(
        "Host a\\*b",
        'Host "npu*"',
        "Host npu*,b1",
        "ConnectTimeout 0",
        "ConnectTimeout 5x",
        "IdentitiesOnly maybe",
    ),
    *(
        "Foo bar",
        "UseKeychain yes",
        "IgnoreUnknown *",
        "GlobalKnownHostsFile none /x",
        "UserKnownHostsFile a none",
    ),
    *(
        "HostKeyAlias %h",
        "Ciphers aes",
        "Ciphers aes128-ctr,",
        "SendEnv a=b",
        "SetEnv a",
        "LocalForward 80 80",
    ),
    *(
        "IdentityAgent $",
        "IdentityAgent ${NO}",
        "UserKnownHostsFile %q",
        "IdentityFile ~nobody/x",
        "Match !all",
    ),
    *(
        "Match canonical all",
        "Match final all all",
        "Match host a host b all",
        "Match all # c",
        "Match exec 'true'",
    ),
    *('Match exec "true', 'Match exec "exit 3"', "Match host = npu*", "Match! user root", "Match tagged x"),
    *(
        "Host==a",
        "User= =a",
        "User\x0ba",
        "User a\x0c",
        "\xa0User a",
        'User"a"',
        "Match host a\r*",
        "ProxyJump a #c",
    ),
    *("ProxyJump ssh://a/b", "ProxyJump ssh://u;x@a", "ControlPath %q", "RemoteCommand %q", "Protocol 2"),
    *(
        "HostName 010.1.2.3",
        "HostName 1.2.3",
        "HostName 0x7f.1",
        "HostName ::FFFF:1.2.3.4",
        "HostName %",
        "HostName A.B.",
    ),
)


def spoil(config: Path, rng: random.Random) -> None:
    """Put odd lines or bytes into a configuration."""
    data = bytearray(config.read_bytes())
    if rng.random() < 0.5:
        lines = bytes(data).split(b"\n")
        for _ in range(rng.choice((1, 1, 2, 3))):
            lines.insert(rng.randint(0, len(lines)), rng.choice(ODD).encode())
        data = bytearray(b"\n".join(lines))
    for _ in range(rng.choice((0, 1, 2))):
        place = rng.randrange(len(data))
        if rng.random() < 0.4:
            del data[place]
        else:
            data.insert(place, rng.choice(b" \t\"'\\#=,!*?%$\n\r:@\xff"))
    config.write_bytes(data)
