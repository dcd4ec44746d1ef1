"""The mask over the values of a job's `env:`, in whatever is to be given to others.

A value is searched for as it is and as it comes to be written: escaped in JSON (once and twice), as Python
shows it, for a shell, in a URL, in base64 and hexadecimal digits, made visible; of several lines each one. It
may lie across the borders of what is read. What is so short, or so common, that everything would be full of
it is searched for beside its name only, and that is said.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from orchestrator.core.visible_text import visible

__all__ = ["SecretMask"]

_SHORTEST = 6  # so many characters are searched for everywhere
_SHORTEST_WORD = 3  # so many as a word of its own
_COMMON = re.compile(
    r"\d+|true|false|yes|none|null|off|info|debug|warn|error|auto|bf16|fp16|fp32", re.IGNORECASE
)
_BESIDE = rb"[\"']?\s{0,4}[=:]\s{0,4}[\"']?"
_CUT = 4  # so much of a value that was cut is not left either


class SecretMask:
    """Replaces the values of variables, by their names, with `<env NAME>`; `masked` counts, by name.

    `beside` are the names of those that are searched for beside their names only.
    """

    def __init__(self, values: Iterable[tuple[str, str]]) -> None:
        self.masked: dict[str, int] = {}
        self.beside: tuple[str, ...] = ()
        forms: dict[bytes, str] = {}
        words: list[tuple[str, bytes]] = []
        beside: list[tuple[str, bytes]] = []
        for name, value in values:
            for text in _parts(value):
                if len(text) >= _SHORTEST:
                    for form in _forms(text):
                        forms.setdefault(form, name)
                elif len(text) >= _SHORTEST_WORD and not _COMMON.fullmatch(text):
                    words.append((name, text.encode("utf-8", "surrogateescape")))
                else:
                    beside.append((name, text.encode("utf-8", "surrogateescape")))
        self.beside = tuple(dict.fromkeys(name for name, _ in beside))
        self._forms = forms
        self._words = {word: name for name, word in words}
        literals = [re.escape(form) for form in sorted(forms, key=len, reverse=True)]
        literals += [rb"(?<![A-Za-z0-9_])" + re.escape(word) + rb"(?![A-Za-z0-9_])" for _, word in words]
        self._beside: dict[str, str] = {}
        for number, (name, short) in enumerate(beside):
            self._beside[f"b{number}"] = name
            key = re.escape(name.encode())
            literals.append(
                b"(?P<b%d>(?<![A-Za-z0-9_])%s%s%s)(?![A-Za-z0-9_])" % (number, key, _BESIDE, re.escape(short))
            )
        self._pattern = re.compile(b"|".join(literals)) if literals else None
        # Without one of these nothing has to be masked: to search for each is far faster than the pattern.
        self._needles = [*forms, *self._words, *(name.encode() for name in self.beside)]
        longest = [len(form) for form in (*forms, *self._words)]
        longest += [len(name.encode()) + 11 + len(short) for name, short in beside]
        self._longest = max(longest, default=0) + 2  # with what is looked at before and behind it

    def stream(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The bytes, masked; of what has come so much is held back as a value may have."""
        if self._pattern is None:
            yield from chunks
            return
        held, before = b"", b""
        for chunk in chunks:
            held += chunk
            if len(held) > 2 * self._longest:
                ready, held, before = self._masked(held, before, len(held) - self._longest)
                yield ready
        yield self._masked(held, before, len(held))[0]

    def of_bytes(self, data: bytes) -> bytes:
        return b"".join(self.stream([data]))

    def of_text(self, text: str) -> str:
        """A text that may have been cut at either end, in the middle of a value."""
        masked = self.of_bytes(text.encode("utf-8", "surrogatepass"))
        return self._without_cut(masked).decode("utf-8", "surrogatepass")

    def of_json(self, value: Any) -> Any:
        """JSON in which every text is masked, keys too."""
        if isinstance(value, str):
            return self.of_text(value)
        if isinstance(value, (list, tuple)):
            return [self.of_json(each) for each in value]
        if isinstance(value, Mapping):
            return {self.of_text(str(name)): self.of_json(each) for name, each in value.items()}
        return value

    def occurrences(self, chunks: Iterable[bytes]) -> int:
        """How many values there are in what should have none."""
        counted = dict(self.masked)
        for _ in self.stream(chunks):
            pass
        found = sum(self.masked.values()) - sum(counted.values())
        self.masked = counted
        return found

    def _masked(self, data: bytes, before: bytes, end: int) -> tuple[bytes, bytes, bytes]:
        """What begins before `end`, masked; the rest; and the byte before that, for who looks back."""
        assert self._pattern is not None
        text, offset = before + data, len(before)
        if not any(needle in text for needle in self._needles):
            return data[:end], data[end:], text[offset + end - 1 : offset + end] if offset + end else b""
        parts, at = [], offset
        for found in self._pattern.finditer(text, offset):
            if found.start() >= offset + end:
                break
            name = self._name_of(found)
            self.masked[name] = self.masked.get(name, 0) + 1
            parts += [text[at : found.start()], f"<env {name}>".encode()]
            at = found.end()
        stop = max(at, offset + end)
        parts.append(text[at:stop])
        return b"".join(parts), text[stop:], text[stop - 1 : stop] if stop else b""

    def _name_of(self, found: re.Match[bytes]) -> str:
        if found.lastgroup is not None:
            return self._beside[found.lastgroup]
        return self._forms.get(found[0]) or self._words[found[0]]

    def _without_cut(self, data: bytes) -> bytes:
        """Without the beginning of a value at the end, or its end at the beginning."""
        for form, name in self._forms.items():
            mark = f"<env {name}>".encode()
            if form[:_CUT] in data[-len(form) :]:
                for size in range(min(len(form) - 1, len(data)), _CUT - 1, -1):
                    if data.endswith(form[:size]):
                        self.masked[name] = self.masked.get(name, 0) + 1
                        data = data[:-size] + mark
                        break
            if form[-_CUT:] in data[: len(form)]:
                for size in range(min(len(form) - 1, len(data)), _CUT - 1, -1):
                    if data.startswith(form[-size:]):
                        self.masked[name] = self.masked.get(name, 0) + 1
                        data = mark + data[size:]
                        break
        return data


def _parts(value: str) -> list[str]:
    """The value, and of several lines each one: a log has them one below another."""
    parts = [value, value.strip(), *(line.strip() for line in value.splitlines())]
    return [part for part in dict.fromkeys(parts) if part]


def _forms(text: str) -> Iterator[bytes]:
    """The ways in which a value is written."""
    in_json = json.dumps(text)[1:-1]
    in_utf8 = json.dumps(text, ensure_ascii=False)[1:-1]
    texts = [
        text,
        in_json,
        in_utf8,
        in_json.replace("/", "\\/"),
        json.dumps(in_json)[1:-1],
        json.dumps(in_utf8)[1:-1],
        repr(text)[1:-1],
        visible(text),
        visible(text.expandtabs(4)),
        shlex.quote(text),
        quote(text, safe=""),
        quote(text),
        quote_plus(text),
        text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"),
    ]
    raw = text.encode("utf-8", "surrogateescape")
    yield from dict.fromkeys([raw, *(each.encode("utf-8", "replace") for each in texts)])
    yield from (raw.hex().encode(), raw.hex().upper().encode())
    for skipped in range(3):
        # Where its first byte is the second or third of three, the characters before it are another's too.
        coded = base64.b64encode(b"\0" * skipped + raw).rstrip(b"=")
        whole = coded[(0, 2, 3)[skipped] : len(coded) - (1 if (skipped + len(raw)) % 3 else 0)]
        yield from (whole, whole.replace(b"+", b"-").replace(b"/", b"_"))
