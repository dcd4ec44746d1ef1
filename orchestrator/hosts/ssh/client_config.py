"""What an SSH client configuration says about one host: what `ssh -G HOST` prints, without a process.

Port of OpenSSH's reading (readconf.c, ssh.c): the first value of an option counts, blocks are judged in the
order of the files, and `Match final` has them read again. What OpenSSH alone can judge, or what its versions
judge differently, raises `Doubt`; `ssh_config` asks `ssh -G` then.
"""

from __future__ import annotations

import errno
import glob
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.hosts.ssh.config_lines import Doubt, Line, read_lines
from orchestrator.hosts.ssh.config_values import (
    at_home,
    expand,
    host_name_here,
    in_list,
    is_host,
    is_safe,
    plain_address,
    run_in_shell,
    user_name_here,
)
from orchestrator.hosts.ssh.hops import parse_hops, written

__all__ = ["Asked", "Place", "Settings", "file_tokens", "read_settings"]

_MAX_DEPTH = 16


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked about: the host as it was named, and what goes before the files as on a command line.

    `jumps` is a ProxyJump of such a command line, "" for none.
    """

    host: str
    user: str | None = None
    port: int | None = None
    jumps: str = ""


@dataclass(frozen=True)
class Place:
    """Who asks, and where: the files in their order, and what tokens and variables mean there."""

    files: tuple[Path, ...]
    is_usual: bool
    home: str = field(default_factory=lambda: os.path.expanduser("~"))
    user: str = field(default_factory=user_name_here)
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    run: Callable[[str, Mapping[str, str]], bool] = run_in_shell


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration says, as `ssh -G` prints it, options that are not set as "" or ()."""

    hostname: str
    user: str
    port: int
    proxy_jump: str = ""
    proxy_command: str = ""
    identity_files: tuple[str, ...] = ()
    certificate_files: tuple[str, ...] = ()
    identities_only: bool = False
    identity_agent: str = ""
    pubkey_authentication: bool = True
    host_key_alias: str = ""
    user_known_hosts: tuple[str, ...] = ()
    global_known_hosts: tuple[str, ...] = ()
    revoked_host_keys: tuple[str, ...] = ()
    address_family: str = "any"
    bind_address: str = ""
    bind_interface: str = ""


# `user` and `port` of the command line come first and stay.
_STRINGS = (
    "addressfamily",
    "bindaddress",
    "bindinterface",
    "canonicalizehostname",
    "hostkeyalias",
    "hostname",
    "identitiesonly",
    "identityagent",
    "ignoreunknown",
    "port",
    "pubkeyauthentication",
    "revokedhostkeys",
    "user",
)
_LISTS = ("globalknownhostsfile", "userknownhostsfile")


class _Options:
    """The options so far, each with its first value."""

    def __init__(self, asked: Asked) -> None:
        self.first: dict[str, str] = {}
        self.lists: dict[str, tuple[str, ...]] = {}
        # With whether a user's file named them: OpenSSH drops what the same kind of file named before.
        self.files: dict[str, list[tuple[str, bool]]] = {"identityfile": [], "certificatefile": []}
        self.places: dict[str, str] = {}
        self.wants_final = False
        if asked.user is not None:
            self.first["user"] = asked.user
        if asked.port is not None:
            self.first["port"] = str(asked.port)
        if asked.jumps:
            self.first["proxyjump"], self.first["proxycommand"] = asked.jumps, "none"

    def where(self, keyword: str) -> str:
        """The line that an option has its value of."""
        return self.places.get(keyword, keyword)

    def set(self, line: Line, in_user_file: bool) -> None:
        keyword, words = line.keyword, line.words
        if keyword not in self.first:
            self.places.setdefault(keyword, line.where)
        if keyword in _STRINGS:
            self.first.setdefault(keyword, words[0])
        elif keyword in _LISTS:
            self.lists.setdefault(keyword, words)
        elif keyword in self.files:
            if (words[0], in_user_file) not in self.files[keyword]:
                self.files[keyword].append((words[0], in_user_file))
        elif keyword == "proxycommand":
            self.first.setdefault(keyword, line.rest)
        elif keyword == "proxyjump" and "proxycommand" not in self.first and keyword not in self.first:
            if line.rest.lower() == "none":
                self.first[keyword] = "none"
            else:
                self.first[keyword], self.first["proxycommand"] = line.rest, "none"
        elif keyword == "canonicalizepermittedcnames" and words[0].lower() != "none":
            raise Doubt(line.where, "follows the names that DNS gives")


class _Reading:
    """One reading of all files, the first or the final one."""

    def __init__(self, place: Place, asked: Asked, options: _Options, host: str, final: bool) -> None:
        self.place = place
        self.asked = asked
        self.options = options
        self.host = host
        self.final = final
        self.active = True

    def all(self) -> None:
        for index, path in enumerate(self.place.files):
            user_file = not (self.place.is_usual and index == len(self.place.files) - 1)
            self.active = True
            self.file(path, user_file, never=False, check=self.place.is_usual and user_file, depth=0)

    def file(self, path: Path, user_file: bool, *, never: bool, check: bool, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise Doubt(str(path), "is included too deep")
        try:
            if check and not is_safe(path):
                raise Doubt(str(path), "has a bad owner, or others may write it")
            lines = () if path.is_dir() else read_lines(path)
        except OSError as error:
            if error.errno == errno.ENOENT and (depth or self.place.is_usual):
                return
            if not depth and self.place.is_usual:
                return  # OpenSSH reads on without a file of its own that it cannot open
            raise Doubt(str(path), str(error.strerror).lower()) from None
        for line in lines:
            self.line(line, user_file, never, depth)

    def line(self, line: Line, user_file: bool, never: bool, depth: int) -> None:
        if line.unknown and self.is_ignored(line.keyword):
            return
        if line.doubt:
            raise Doubt(line.where, line.doubt)
        if line.keyword == "host":
            self.active = not never and is_host(self.host, line.words)
        elif line.keyword == "match":
            self.active = self.matches(line, never) and not never
        elif line.keyword == "include":
            self.include(line, user_file, depth)
        elif self.active:
            self.options.set(line, user_file)

    def is_ignored(self, keyword: str) -> bool:
        ignored = self.options.first.get("ignoreunknown", "").lower()
        return bool(ignored) and in_list(keyword, ignored)

    def include(self, line: Line, user_file: bool, depth: int) -> None:
        active = self.active
        for word in line.words:
            if re.search(r"[%$\\{]", word) or (word.startswith("~") and not user_file):
                raise Doubt(line.where, f"includes {word}")
            if not word.startswith(("/", "~")):
                word = f"{'~/.ssh' if user_file else '/etc/ssh'}/{word}"
            for name in sorted(glob.glob(at_home(word, self.place.home))):
                self.file(Path(name), user_file, never=not active, check=True, depth=depth + 1)
                self.active = active

    def matches(self, line: Line, never: bool) -> bool:
        """Whether a Match line is fulfilled; every word of it is looked at, as OpenSSH does."""
        words = list(line.words)
        result, count = True, 0
        while words:
            word = words.pop(0)
            negated, name = word.startswith("!"), word.removeprefix("!").lower()
            if name == "all":
                if count > 1 or words:
                    raise Doubt(line.where, "combines `all` with others")
                return result and not negated
            count += 1
            if name in ("final", "canonical"):
                if name == "final" and negated:
                    raise Doubt(
                        line.where, "asks for what is not final, which versions of ssh take differently"
                    )
                self.options.wants_final |= name == "final"
                result &= self.final != negated
                continue
            if not words or not words[0]:
                raise Doubt(line.where, f"has nothing to compare `{name}` with")
            result &= self.criterion(line, name, words.pop(0), result and not never) != negated
        return result

    def criterion(self, line: Line, name: str, wanted: str, counts: bool) -> bool:
        if name == "host":
            return in_list(self.target(line).lower(), wanted.lower())
        if name == "originalhost":
            return in_list(self.asked.host.lower(), wanted.lower())
        if name == "user":
            return in_list(self.user, wanted)
        if name == "localuser":
            return in_list(self.place.user, wanted)
        if name == "exec":
            command = expand(wanted, self.tokens(line), None, line.where)
            return counts and self.place.run(command, self.place.environment)
        raise Doubt(line.where, f"asks about `{name}`")

    @property
    def user(self) -> str:
        return self.options.first.get("user", self.place.user)

    def target(self, line: Line) -> str:
        named = self.options.first.get("hostname")
        if named is None or self.final:
            return self.host
        return expand(named, {"h": self.host}, None, line.where)

    def tokens(self, line: Line) -> dict[str, str]:
        target = self.target(line)
        return _tokens(self.place, self.asked, self.options.first, target, alias=target)


def read_settings(asked: Asked, place: Place) -> Settings:
    """What the files say about a host. Raises Doubt."""
    options = _Options(asked)
    _Reading(place, asked, options, asked.host, final=False).all()
    _refuse_lookups(options)
    named = options.first.get("hostname", asked.host)
    host = expand(named, {"h": asked.host}, None, options.where("hostname"))
    family = options.first.get("addressfamily", "any").lower()
    host = plain_address(host, family)
    if options.wants_final:
        options.first["hostname"] = host
        _Reading(place, asked, options, host, final=True).all()
        _refuse_lookups(options)
    return _settings(place, asked, options, host)


def _refuse_lookups(options: _Options) -> None:
    if options.first.get("canonicalizehostname", "no").lower() not in ("no", "false"):
        raise Doubt(options.where("canonicalizehostname"), "has names looked up")


def _settings(place: Place, asked: Asked, options: _Options, host: str) -> Settings:
    first = options.first
    tokens = _tokens(place, asked, first, host, alias=asked.host)
    if "hostkeyalias" in first:
        tokens["k"] = first["hostkeyalias"].lower()

    def path(keyword: str, text: str) -> str:
        where, found = options.where(keyword), at_home(text, place.home)
        if found.startswith("~"):
            raise Doubt(where, f"has {text!r}, and no such user is known here")
        return expand(found, tokens, place.environment, where)

    jump, command = first.get("proxyjump", "none"), first.get("proxycommand", "none")
    agent = first.get("identityagent", "")
    known = options.lists.get("userknownhostsfile", ("~/.ssh/known_hosts", "~/.ssh/known_hosts2"))
    system = options.lists.get(
        "globalknownhostsfile", ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
    )
    revoked = first.get("revokedhostkeys", "")
    user, port = first.get("user", place.user), int(first.get("port", 22))
    if jump.lower() != "none":
        last = parse_hops(jump)[-1]
        if (last.host, last.port or 22, last.user or user) == (host, port, user):
            raise Doubt(options.where("proxyjump"), f"has {host} jump through itself")
    return Settings(
        hostname=host,
        user=user,
        port=port,
        proxy_jump="" if jump.lower() == "none" else written(jump),
        proxy_command="" if command.lower() == "none" else command,
        identity_files=tuple(name for name, _ in options.files["identityfile"]),
        certificate_files=tuple(name for name, _ in options.files["certificatefile"]),
        identities_only=first.get("identitiesonly", "no").lower() in ("yes", "true"),
        identity_agent=path("identityagent", agent) if agent else "",
        pubkey_authentication=first.get("pubkeyauthentication", "yes").lower() not in ("no", "false"),
        host_key_alias=first.get("hostkeyalias", "").lower(),
        user_known_hosts=()
        if known[0].lower() == "none"
        else tuple(path("userknownhostsfile", each) for each in known),
        global_known_hosts=() if system[0].lower() == "none" else system,
        revoked_host_keys=() if revoked.lower() in ("", "none") else (revoked,),
        address_family=first.get("addressfamily", "any").lower(),
        bind_address=first.get("bindaddress", ""),
        bind_interface=first.get("bindinterface", ""),
    )


def _tokens(place: Place, asked: Asked, first: Mapping[str, str], host: str, alias: str) -> dict[str, str]:
    here = host_name_here()
    return {
        "L": here.partition(".")[0],
        "d": place.home,
        "h": host,
        "i": str(os.getuid()),
        "k": first.get("hostkeyalias", alias),
        "l": here,
        "n": asked.host,
        "p": first.get("port", "22"),
        "r": first.get("user", place.user),
        "u": place.user,
    }


def file_tokens(asked: Asked, settings: Settings) -> Callable[[str], str]:
    """How the names of key files become paths: `~`, tokens and variables replaced.

    A file whose tokens mean nothing here keeps its name, and is told as one that does not exist.
    """
    place = Place(files=(), is_usual=False)
    first = {"user": settings.user, "port": str(settings.port)}
    if settings.host_key_alias:
        first["hostkeyalias"] = settings.host_key_alias
    tokens = _tokens(place, asked, first, settings.hostname, alias=asked.host)

    def path(text: str) -> str:
        try:
            return expand(at_home(text, place.home), tokens, place.environment, text)
        except Doubt:
            return text

    return path
