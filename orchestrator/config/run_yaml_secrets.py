"""What nobody is to see of a run YAML, such as `hub_token`: its values are in no text that is shown."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

__all__ = ["HIDDEN", "without_secrets"]

HIDDEN = "***"
_WORDS = r"(?:token|password|secret|api_key|access_key)"
_KEY = re.compile(rf".*{_WORDS}\s*", re.IGNORECASE | re.DOTALL)
# A line of such a key, in a comment too.
_LINE = re.compile(rf"(^[ \t#-]*[\"']?[\w.]*{_WORDS}[\"']?[ \t]*:[ \t]*)\S.*$", re.IGNORECASE | re.MULTILINE)
# What is shorter is hidden at its key alone: `1` and `True` are in many other places, and no secrets there.
_SHORTEST = 4


def without_secrets(*texts: str) -> list[str]:
    """The texts without the values of keys that may be secrets: at the keys, however they are written.

    What such a key says is hidden wherever else it is in any of the texts, too. What is no YAML is searched
    line by line.
    """
    shown: list[str] = []
    said: set[str] = set()
    for text in texts:
        places = sorted(set(_values(text)), reverse=True)
        for start, end, value in places:
            # The mark of a block's end is behind its last newline.
            after = "\n" if text[start:end].endswith("\n") else ""
            text = text[:start] + HIDDEN + after + text[end:]
            said.update(each for each in (value, *value.splitlines()) if len(each.strip()) >= _SHORTEST)
        shown.append(_LINE.sub(rf"\g<1>{HIDDEN}", text))
    words = sorted((word.strip() for word in said), key=len, reverse=True)
    if not words:
        return shown
    anywhere = re.compile("|".join(map(re.escape, words)))
    return [anywhere.sub(HIDDEN, text) for text in shown]


def _values(text: str) -> Iterator[tuple[int, int, str]]:
    """Where the values of such keys begin and end, and what they say; "" of what is no text."""
    try:
        # The loader in Python, whose marks count characters; what is an alias is the node it means.
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return
    waiting: list[tuple[yaml.Node, bool]] = [(root, False)] if root is not None else []
    seen: set[tuple[int, bool]] = set()
    while waiting:
        node, is_secret = waiting.pop()
        if (id(node), is_secret) in seen:
            continue
        seen.add((id(node), is_secret))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                named = isinstance(key, yaml.ScalarNode) and _KEY.fullmatch(key.value) is not None
                waiting.append((value, is_secret or named))
        elif isinstance(node, yaml.SequenceNode):
            waiting += ((item, is_secret) for item in node.value)
        elif is_secret and node.start_mark.index < node.end_mark.index:
            is_text = node.tag == "tag:yaml.org,2002:str"
            yield node.start_mark.index, node.end_mark.index, node.value if is_text else ""
