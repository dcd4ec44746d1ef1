"""The SSH client configuration of a host: read here, and by `ssh -G` where only OpenSSH can judge it.

Reading here takes a fraction of a millisecond for each host and needs no `ssh`; a process for each of
hundreds of hosts would be seconds. What cannot be judged here is never guessed: without an `ssh` to ask it
is refused, with file, line and option.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from orchestrator.core.errors import ConfigError, Problem
from orchestrator.core.visible_text import visible
from orchestrator.hosts.ssh.client_config import Asked, Place, Settings, read_settings
from orchestrator.hosts.ssh.config_lines import Doubt
from orchestrator.hosts.ssh.config_values import is_same_file

__all__ = ["ask_ssh", "host_name_of", "place_of", "settings_of"]

_USER_FILE = "~/.ssh/config"
_SYSTEM_FILE = Path("/etc/ssh/ssh_config")
_ASK_SECONDS = 60.0
_DEFAULT_KEY = re.compile(r"~/\.ssh/id_(rsa|ecdsa|ecdsa_sk|ed25519|ed25519_sk|xmss|dsa|mldsa\w+)")


def place_of(config_file: str) -> Place:
    """Where a configuration is read: the file, and the system's after it if it is the user's usual one.

    Raises ConfigError where there is no such file.
    """
    path, usual = os.path.expanduser(config_file), os.path.expanduser(_USER_FILE)
    if is_same_file(path, usual):  # an inventory follows links
        return Place(files=(Path(path), _SYSTEM_FILE), is_usual=True)
    if not os.path.isfile(path):
        problem = Problem(path, "no such ssh config file", "check ssh.config_file in the inventory")
        raise ConfigError([problem])
    return Place(files=(Path(path),), is_usual=False)


def settings_of(asked: Asked, config_file: str, ssh: str | None = "ssh") -> Settings:
    """What the configuration says about a host. Raises ConfigError for what it cannot say.

    `ssh` is the program that is asked where this reading is not enough, None for nobody.
    """
    place = place_of(config_file)
    try:
        return read_settings(asked, place)
    except Doubt as doubt:
        program = shutil.which(ssh) if ssh else None
        if program is None:
            remedy = "without an `ssh` to ask, this cannot be read here: leave it out, or install OpenSSH"
            raise _refused(doubt, visible(doubt.what), remedy) from None
        return ask_ssh(asked, place, program, doubt)


def host_name_of(address: str, config_file: str) -> str:
    """The `HostName` that the configuration gives an address or alias; without one, what was given."""
    try:
        return settings_of(Asked(address), config_file).hostname
    except ConfigError:
        return address  # of a config that cannot be read, connecting says what is wrong


def ask_ssh(asked: Asked, place: Place, program: str, doubt: Doubt) -> Settings:
    """What `ssh -G` says. Raises ConfigError, with its words, where it refuses."""
    argv = [program, "-G", *([] if place.is_usual else ["-F", str(place.files[0])])]
    for flag, value in (("-l", asked.user), ("-p", asked.port), ("-J", asked.jumps or None)):
        if value is not None:
            argv += [flag, str(value)]
    argv += ["--", asked.host]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        what = f"{visible(doubt.what)}, and `ssh -G {asked.host}` does not answer: {error}"
        raise _refused(doubt, what, "") from None
    if done.returncode:
        raise _refused(doubt, _words(done.stderr), "mend the ssh config file")
    return settings_from(done.stdout.decode("utf-8", "surrogateescape"))


def _refused(doubt: Doubt, what: str, remedy: str) -> ConfigError:
    # File and line are part of the text: of several hosts with one text, the text alone is shown.
    return ConfigError([Problem("", f"{visible(doubt.where)}: {what}", remedy)])


def _words(stderr: bytes) -> str:
    lines = [visible(line)[:300] for line in stderr[-4096:].decode("utf-8", "replace").splitlines()]
    said = [line for line in lines if line.strip() and "terminal" not in line]
    return f"ssh refuses it: {'; '.join(said[:3]) or 'without a word'}"


def settings_from(dump: str) -> Settings:
    """What `ssh -G` has printed."""
    found: dict[str, list[str]] = {}
    for line in dump.split("\n"):
        keyword, _, value = line.partition(" ")
        found.setdefault(keyword.lower(), []).append(value)

    def one(keyword: str, default: str = "") -> str:
        return found.get(keyword, [default])[0]

    def words(keyword: str) -> tuple[str, ...]:
        listed = [word for word in one(keyword).split(" ") if word]
        return () if [word.lower() for word in listed] == ["none"] else tuple(listed)

    keys = tuple(found.get("identityfile", ()))
    return Settings(
        hostname=one("hostname"),
        user=one("user"),
        port=int(one("port", "22")),
        proxy_jump=one("proxyjump"),
        proxy_command=one("proxycommand"),
        # None named: those that every OpenSSH tries by itself.
        identity_files=() if len(keys) > 4 and all(map(_DEFAULT_KEY.fullmatch, keys)) else keys,
        certificate_files=tuple(found.get("certificatefile", ())),
        identities_only=one("identitiesonly") in ("yes", "true"),
        identity_agent=one("identityagent"),
        pubkey_authentication=one("pubkeyauthentication") not in ("no", "false"),
        host_key_alias=one("hostkeyalias"),
        user_known_hosts=words("userknownhostsfile"),
        global_known_hosts=words("globalknownhostsfile"),
        revoked_host_keys=words("revokedhostkeys"),
        address_family=one("addressfamily", "any"),
        bind_address=one("bindaddress"),
        bind_interface=one("bindinterface"),
    )
