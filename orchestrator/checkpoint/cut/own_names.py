"""The own names of what a file holds, parameters and their moments, whatever prefix the file has for them.

MindFormers' network saves names without a prefix. Files of our versions before 0.2, and those that were
converted from weights whose keys have it, have `transformer.`; everything that is read comes through here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

from orchestrator.checkpoint.cut.coverage import is_moment, is_weight, weight_of
from orchestrator.core.errors import CheckpointError
from orchestrator.families.registry import families, own_names

__all__ = ["changed_names", "under_own_names"]

T = TypeVar("T")


def changed_names(names: Iterable[str]) -> dict[str, str]:
    """Stored name -> own name of those that differ. CheckpointError: the own name is there, too."""
    given = list(names)
    prefixes = tuple(prefix for family in families() for prefix in family.other_prefixes)
    counted = (name for name in given if any(prefix in name for prefix in prefixes))
    weights = {name: weight_of(name) for name in counted if is_weight(name) or is_moment(name)}
    own = own_names(weights.values()) if weights else {}
    if not own:
        return {}
    changed = {name: name[: -len(weight)] + own[weight] for name, weight in weights.items() if weight in own}
    counts = Counter(changed.get(name, name) for name in dict.fromkeys(given))
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise CheckpointError(f"holds {twice[0]} twice, with a prefix before its name and without")
    return changed


def under_own_names(held: Mapping[str, T]) -> dict[str, T]:
    """The same values in the same order under their own names. CheckpointError as from `changed_names`."""
    changed = changed_names(held)
    return {changed.get(name, name): value for name, value in held.items()}
