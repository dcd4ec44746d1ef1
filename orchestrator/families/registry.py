"""The register of families: which there are, and which one a configuration, a preset or weights mean."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from orchestrator.families.bloom import BloomConfig
from orchestrator.families.family import Family
from orchestrator.families.network_config import NetworkConfig

__all__ = [
    "FamilyError",
    "config_class",
    "families",
    "family_of_hf",
    "family_of_weights",
    "find_preset",
    "hub_names",
    "mindformers_class",
    "own_names",
    "preset_names",
    "register",
    "table_again",
    "unregister",
    "values_of_hf",
]

# A configuration that names no family means the first, which was the only one when nothing named any.
_FAMILIES: dict[str, type[NetworkConfig]] = {}


class FamilyError(ValueError):
    """There is no such family, or two of one name."""


def register(config: type[NetworkConfig]) -> None:
    """Add a family by its class of configurations. FamilyError: its name, or a preset's, is taken."""
    family = config.family
    taken = {family.name} & set(_FAMILIES) or set(family.presets) & set(preset_names())
    if taken:
        raise FamilyError(f"{family.name}: {', '.join(sorted(taken))} is the name of another")
    _FAMILIES[family.name] = config


def unregister(config: type[NetworkConfig]) -> None:
    """Take a family out again."""
    del _FAMILIES[config.family.name]


def families() -> tuple[Family, ...]:
    """All of them, the one that is meant where none is named first."""
    return tuple(config.family for config in _FAMILIES.values())


def config_class(values: Mapping[str, Any]) -> type[NetworkConfig]:
    """The class for these fields, which the key `family` names. FamilyError: there is no such family."""
    name = values.get("family", next(iter(_FAMILIES)))
    if not isinstance(name, str) or name not in _FAMILIES:
        raise FamilyError(f"family is {name!r}, not one of {', '.join(_FAMILIES)}")
    return _FAMILIES[name]


def mindformers_class(kind: str | None) -> type[NetworkConfig]:
    """The class for a `model_config` of MindFormers with this `type`. FamilyError: none is bundled."""
    found = next((one for one in _FAMILIES.values() if kind in (None, one.family.mindformers)), None)
    if found is None:
        known = ", ".join(family.mindformers for family in families())
        raise FamilyError(f"is {kind}; bundled is only {known}")
    return found


def family_of_hf(table: Mapping[str, Any]) -> Family | None:
    """The family of a transformers' config.json; None where it is of none."""
    kind = table.get("model_type")
    return next((family for family in families() if family.hf.model_type == kind), None)


def values_of_hf(table: object) -> dict[str, Any] | None:
    """What a config.json of transformers says of a network, under our names; None: it is of no family."""
    family = family_of_hf(table) if isinstance(table, Mapping) else None
    if family is None or not isinstance(table, Mapping):
        return None
    return {"family": family.name, **family.hf.only, **family.hf.nearly, **family.hf.fields_in(table)}


def preset_names() -> list[str]:
    """The sizes that are known by name, of all families."""
    return [name for family in families() for name in family.presets]


def find_preset(name: str) -> dict[str, Any] | None:
    """The fields of a preset, `7.1b` or with its family `bloom_7.1b`; None where none is called so."""
    for family in families():
        values = family.presets.get(name, family.presets.get(name.removeprefix(f"{family.name}_")))
        if values is not None:
            return {"family": family.name, **values}
    return None


def hub_names() -> dict[str, str]:
    """The repository on the hub that one of MindFormers' names stands for."""
    return {name: repository for family in families() for name, repository in family.hub.items()}


def family_of_weights(names: Iterable[str]) -> tuple[Family, bool] | None:
    """The family that knows most of these names, and whether they are Hugging Face's; None: no family."""
    given = list(names)
    counts = [
        (sum(bool(known(name)) for name in given), (family, is_hf))
        for family in families()
        for known, is_hf in ((family.find, False), (family.ms_parts, True))
    ]
    most, found = max(counts, key=lambda item: item[0])
    return found if most else None


def own_names(names: Iterable[str]) -> dict[str, str]:
    """What parameters are called here that a file has under another prefix; {} where there are none.

    A name alone tells little: all that have the prefix must be of one family, or the network is another.
    """
    given = list(names)
    for family in families():
        other = [name for name in given if name.startswith(family.other_prefixes)]
        own = {name: family.own_name(name) for name in other}
        if own and None not in own.values():
            return {name: known for name, known in own.items() if known}
    return {}


def table_again(names: Container[str]) -> tuple[str, str] | None:
    """(second name, name) of a word embedding that is there twice; both as `own_names` has them."""
    found = ((family.table_again, family.table.name) for family in families())
    return next((pair for pair in found if pair[0] in names and pair[1] in names), None)


for _config in (BloomConfig,):
    register(_config)
