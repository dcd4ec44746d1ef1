"""What a plain word in YAML is: text, a number, true, false or nothing.

After the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema): `yes`, `on` and `010` are
text, `1e-3` is a number. PyYAML's own YAML 1.1 rules turn these into something else in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

try:  # ten times faster; absent where PyYAML was built without libyaml
    from yaml import CSafeLoader as _Base
except ImportError:
    from yaml import SafeLoader as _Base  # type: ignore[assignment]

__all__ = ["CONVERT", "TAG", "Loader"]


class Loader(_Base):
    """PyYAML's safe loader with these rules and no others."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's way


_PLAIN = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9]{0,17})|0x[0-9a-fA-F]{1,15}",
    "float": r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]{1,4})?|[-+]?\.inf|\.nan",
}
TAG = "tag:yaml.org,2002:"
for _name, _pattern in _PLAIN.items():
    Loader.add_implicit_resolver(TAG + _name, re.compile(f"^(?:{_pattern})$"), [None])

CONVERT: dict[str, Callable[[str], Any]] = {
    "str": str,
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": lambda text: int(text, 16 if text.startswith("0x") else 10),
    "float": lambda text: float(re.sub(r"\.(?=inf|nan)", "", text)),
}
