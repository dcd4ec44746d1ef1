"""Lines of an SSH client configuration: split as OpenSSH splits them, and held against what it knows.

What every OpenSSH since 8.7 reads in the same way becomes a `Line`; anything else is a `Doubt`, about which
`ssh -G` is asked. Source: readconf.c (`process_config_line_depth`, `keywords`) and misc.c (`argv_split`).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Doubt", "Line", "read_lines"]


class Doubt(Exception):
    """A line that only OpenSSH itself can judge: where it stands, what it is."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(where, what)
        self.where = where
        self.what = what


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its keyword in small letters, its words without quotes, and what stands behind the keyword.

    `doubt` is why the line cannot be judged here; an unknown keyword may still be one to ignore.
    """

    file: str
    number: int
    keyword: str
    words: tuple[str, ...]
    rest: str
    doubt: str = ""
    unknown: bool = False

    @property
    def where(self) -> str:
        return f"{self.file}:{self.number}: {self.keyword}"


def read_lines(path: Path) -> tuple[Line, ...]:
    """The lines of a file that say something; read once until the file changes. Raises OSError."""
    status = path.stat()
    return _read(path, (status.st_mtime_ns, status.st_size, status.st_ino))


@functools.lru_cache(maxsize=256)
def _read(path: Path, stamp: tuple[int, ...]) -> tuple[Line, ...]:
    lines: list[Line] = []
    for number, text in enumerate(path.read_bytes().decode("utf-8", "surrogateescape").split("\n"), 1):
        # Bare form feeds end a line, and nothing else.
        bare = text.rstrip(" \t\r\n\f").lstrip(" \t\r")
        if bare and not bare.startswith("#"):
            lines.append(_line(str(path), number, bare))
    return tuple(lines)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_LINE = re.compile(r'([^ \t\r"=]+)(?:[ \t\r]*=[ \t\r]*|[ \t\r]+|\Z)(.*)', re.DOTALL)


def _line(file: str, number: int, text: str) -> Line:
    found = _LINE.fullmatch(text)
    if found is None or _CONTROL.search(text):
        return Line(file, number, text[:40], (), "", "is no line of an SSH configuration")
    keyword, rest = found[1].lower(), found[2]
    words = _match_words(rest) if keyword == "match" else _split(rest)
    if words is None:
        return Line(file, number, keyword, (), rest, "has quotes or escapes that not every ssh reads alike")
    known = keyword in _KINDS
    if not rest:
        return Line(file, number, keyword, (), rest, "has no value")
    if not known:
        return Line(file, number, keyword, words, rest, "is not a known option", unknown=True)
    good = _is_good(keyword, words, rest)
    return Line(file, number, keyword, words, rest, "" if good else f"has the value {rest[:60]!r}")


def _split(text: str) -> tuple[str, ...] | None:
    """Words as `argv_split` has them; None where a quote is not closed."""
    words: list[str] = []
    place, end = 0, len(text)
    while place < end:
        if text[place] in " \t":
            place += 1
            continue
        if text[place] == "#":
            break
        word, quote = "", ""
        while place < end:
            mark = text[place]
            after = text[place + 1] if place + 1 < end else ""
            if mark == "\\" and after and (after in "'\"\\" or (not quote and after == " ")):
                word += after
                place += 1
            elif not quote and mark in " \t":
                break
            elif not quote and mark in "\"'":
                quote = mark
            elif quote and mark == quote:
                quote = ""
            else:
                word += mark
            place += 1
        if quote:
            return None
        words.append(word)
    return tuple(words)


# `Match` was split in another way until 9.9: only where both ways agree is it read here.
_MATCH_WORD = re.compile(
    r'[ \t]*(?:(!?[A-Za-z]+)=)?(?:"([^"\\]*)"|([^ \t\r"\'\\=#][^ \t\r"\'\\=]*))(?=[ \t]|$)'
)


def _match_words(text: str) -> tuple[str, ...] | None:
    words: list[str] = []
    place = 0
    while text[place:].strip(" \t"):
        if text[place:].lstrip(" \t").startswith("#"):
            break
        found = _MATCH_WORD.match(text, place)
        if found is None:
            return None
        if found[1]:
            if found[1].lstrip("!").lower() not in _VALUED:
                return None
            words.append(found[1])
        words.append(found[2] if found[2] is not None else found[3])
        place = found.end()
    return tuple(words)


_VALUED = ("host", "originalhost", "user", "localuser", "exec")

_FLAG = "yes|no|true|false"
_TIME = r"(\d{1,6}[smhdwSMHDW]?)+"
_HOP = r"(?:[^\s,/#]+@)?(?:\[[^\s,\]/#@]+\]|[^\s,:/@\[\]#]+)(?::\d{1,5})?"
_URI = r"ssh://(?:[^\s,/@;%#]+@)?[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*(?::\d{1,5})?/?"
_ONE = r"(?s:.+)"
_NAMES = "LIST"
_PORT = r"[1-9]\d{0,3}"
_TOKENS = r"(?s:[^%$]|%[%CLdhiklnpru])+"

# One pattern for the one word of an option; letter case counts in none of the fixed ones.
_WORD: dict[str, str] = {
    _FLAG: "batchmode checkhostip clearallforwardings enablesshkeysign exitonforwardfailure forwardx11 "
    "forwardx11trusted gatewayports gssapiauthentication gssapidelegatecredentials gssapikeyexchange "
    "gssapirenewalforcesrekey gssapitrustdns hashknownhosts hostbasedauthentication identitiesonly "
    "kbdinteractiveauthentication challengeresponseauthentication skeyauthentication tisauthentication "
    "forwardagent nohostauthenticationforlocalhost passwordauthentication permitlocalcommand proxyusefdpass "
    "streamlocalbindunlink tcpkeepalive keepalive visualhostkey canonicalizefallbacklocal stdinnull "
    "forkafterauthentication enableescapecommandline",
    f"{_FLAG}|ask": "verifyhostkeydns updatehostkeys",
    f"{_FLAG}|ask|off|accept-new": "stricthostkeychecking",
    f"{_FLAG}|ask|confirm": "addkeystoagent",
    f"{_FLAG}|unbound|host-bound": "pubkeyauthentication",
    f"{_FLAG}|auto|ask|autoask": "controlmaster",
    f"{_FLAG}|ethernet|point-to-point": "tunnel",
    f"{_FLAG}|force|auto": "requesttty",
    f"{_FLAG}|always": "canonicalizehostname",
    "none|subsystem|default": "sessiontype",
    "inet|inet6|any": "addressfamily",
    "yes|no": "compression",
    "md5|sha256|sha512": "fingerprinthash",
    "quiet|fatal|error|info|verbose|debug|debug1|debug2|debug3": "loglevel",
    "daemon|user|auth|local[0-7]": "syslogfacility",
    f"(?i:none)|{_TIME}": "connecttimeout forwardx11timeout serveraliveinterval",
    f"{_FLAG}|{_TIME}": "controlpersist",
    r"\d{1,9}": "canonicalizemaxdots numberofpasswordprompts requiredrsasize serveralivecountmax",
    r"0*[1-9]\d{0,6}": "connectionattempts",
    r"0*(?:[1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])": "port",
    r"none|[!-~]|\^[@-~]": "escapechar",
    r"0?[0-7]{1,3}": "streamlocalbindmask",
    r"(?:any|\d{1,4})(?::(?:any|\d{1,4}))?": "tunneldevice",
    r"[^%$]+": "user",
    _ONE: "bindaddress bindinterface certificatefile gssapiclientidentity gssapikexalgorithms "
    "gssapiserveridentity hostkeyalias hostname identityfile ignoreunknown kbdinteractivedevices "
    "pkcs11provider revokedhostkeys smartcarddevice "
    "preferredauthentications securitykeyprovider xauthlocation",
    r"[^$]+|SSH_AUTH_SOCK|\$[A-Za-z_][A-Za-z0-9_]*": "identityagent",
    _TOKENS: "controlpath",
    _NAMES: "ciphers macs kexalgorithms hostkeyalgorithms casignaturealgorithms hostbasedacceptedalgorithms "
    "hostbasedkeytypes pubkeyacceptedalgorithms pubkeyacceptedkeytypes",
    rf"(?:[a-z0-9.-]+:)?{_PORT}": "dynamicforward",
}
# Options of several words: the pattern of each.
_WORDS: dict[str, str] = {
    "host": _ONE,
    "include": _ONE,
    "globalknownhostsfile": _ONE,
    "userknownhostsfile": _ONE,
    "sendenv": r"[^=]+",
    "setenv": r"[^=]+=.*",
    "canonicaldomains": r"[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*",
    "canonicalizepermittedcnames": r"\*|[^:]+:[^:]+",
    "permitremoteopen": r"any|none|[A-Za-z0-9_.*-]+:(?:\*|\d{1,5})",
    "logverbose": _ONE,
}
# Options of one or two words that differ.
_PAIRS: dict[str, tuple[str, str]] = {
    "ipqos": (_SERVICE := "af[1-4][1-3]|cs[0-7]|ef|le|lowdelay|throughput|reliability|none", _SERVICE),
    "rekeylimit": (r"default|[1-9]\d{2,5}|[1-9]\d{0,3}[KMG]", rf"none|{_TIME}"),
    "localforward": (rf"(?:[a-z0-9.-]+:)?{_PORT}", rf"[a-z0-9.-]+:{_PORT}"),
    "remoteforward": (rf"(?:[a-z0-9.-]+:)?{_PORT}", rf"[a-z0-9.-]+:{_PORT}"),
}
# Options that take what is left of their line, comments and all.
_REST = ("proxycommand", "localcommand", "remotecommand", "knownhostscommand")
_PASSED_OVER = (
    "protocol cipher fallbacktorsh globalknownhostsfile2 rhostsauthentication userknownhostsfile2 useroaming "
    "usersh useprivilegedport afstokenpassing kerberosauthentication kerberostgtpassing rsaauthentication "
    "rhostsrsaauthentication compressionlevel"
)

_KINDS: dict[str, re.Pattern[str]] = {
    name: re.compile(pattern, re.IGNORECASE) for pattern, names in _WORD.items() for name in names.split()
}
_KINDS.update({name: re.compile(pattern, re.DOTALL) for name, pattern in _WORDS.items()})
_KINDS.update(
    {name: re.compile(_ONE) for name in (*_REST, *_PAIRS, *_PASSED_OVER.split(), "match", "proxyjump")}
)
_JUMPS = re.compile(rf"(?i:none)|(?:{_URI}|{_HOP})(?:,(?:{_URI}|{_HOP}))*")
_HOP_PORTS = re.compile(r":(\d+)/?(?=,|$)")

_CIPHERS = (
    "3des-cbc aes128-cbc aes192-cbc aes256-cbc aes128-ctr aes192-ctr aes256-ctr aes128-gcm@openssh.com "
    "aes256-gcm@openssh.com chacha20-poly1305@openssh.com"
)
_MACS = " ".join(
    f"{name}{kind}"
    for name in ("hmac-sha1", "hmac-sha2-256", "hmac-sha2-512", "umac-64", "umac-128")
    for kind in (("@openssh.com", "-etm@openssh.com") if name[0] == "u" else ("", "-etm@openssh.com"))
)
_KEX = (
    "curve25519-sha256 curve25519-sha256@libssh.org ecdh-sha2-nistp256 ecdh-sha2-nistp384 ecdh-sha2-nistp521 "
    "diffie-hellman-group-exchange-sha256 diffie-hellman-group16-sha512 diffie-hellman-group18-sha512 "
    "diffie-hellman-group14-sha256 diffie-hellman-group14-sha1 diffie-hellman-group1-sha1 "
    "diffie-hellman-group-exchange-sha1"
)
_KEYS = "ssh-ed25519 ecdsa-sha2-nistp256 ecdsa-sha2-nistp384 ecdsa-sha2-nistp521 rsa-sha2-512 rsa-sha2-256"
_CERTIFICATES = " ".join(f"{name}-cert-v01@openssh.com" for name in _KEYS.split())
_ALL_KEYS = frozenset([*_KEYS.split(), *_CERTIFICATES.split(), "ssh-rsa", "ssh-rsa-cert-v01@openssh.com"])
_LISTS = {
    "ciphers": frozenset(_CIPHERS.split()),
    "macs": frozenset(_MACS.split()),
    "kexalgorithms": frozenset(_KEX.split()),
    "casignaturealgorithms": frozenset([*_KEYS.split(), "ssh-rsa"]),
}


def _is_good(keyword: str, words: tuple[str, ...], rest: str) -> bool:
    """Whether every OpenSSH takes these words for this option."""
    if keyword in _PASSED_OVER.split():
        return True
    if keyword in _REST:
        return keyword != "remotecommand" or re.fullmatch(_TOKENS, rest) is not None
    if keyword == "match":
        return bool(words)
    if keyword == "proxyjump":
        return _are_hops(rest)
    if keyword in _PAIRS:
        least = 2 if keyword.endswith("forward") else 1
        fit = [re.fullmatch(*each, re.IGNORECASE) for each in zip(_PAIRS[keyword], words, strict=False)]
        return least <= len(words) <= 2 and all(fit)
    if keyword in _WORDS:
        return _are_good(keyword, words)
    return len(words) == 1 and bool(words[0]) and _is_good_word(keyword, words[0])


def _is_good_word(keyword: str, word: str) -> bool:
    if _KINDS[keyword].pattern == _NAMES:
        known = _LISTS.get(keyword, _ALL_KEYS)
        names = word[1:] if word[0] in "+^" else word
        return all(name in known for name in names.split(","))
    return _KINDS[keyword].fullmatch(word) is not None


def _are_good(keyword: str, words: tuple[str, ...]) -> bool:
    if keyword.endswith("knownhostsfile") or keyword.startswith("canonical") or keyword == "logverbose":
        if [word.lower() for word in words] == ["none"]:
            return True
        if any(word.lower() == "none" for word in words):
            return False  # it stands alone
    return 0 < len(words) <= 32 and all(_KINDS[keyword].fullmatch(word) for word in words)


def _are_hops(rest: str) -> bool:
    ports = _HOP_PORTS.findall(rest)
    return _JUMPS.fullmatch(rest) is not None and all(0 < int(port) < 65536 for port in ports)
