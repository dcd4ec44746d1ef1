"""The validation of YAML by pydantic models: what they find, with file, line, key and remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, ValidationError

from orchestrator.config.schema import written_name
from orchestrator.config.yaml_messages import WORDS, Finding, Invalid, Loc, nearest, words
from orchestrator.config.yaml_reader import MAX_TOLD, YamlFile
from orchestrator.core.errors import ConfigError

__all__ = ["validate"]

M = TypeVar("M", bound=BaseModel)


def validate(file: YamlFile, model: type[M]) -> M:
    """The file as a `model`. Raises ConfigError with every problem of the file, in the order of its lines."""
    try:
        result = model.model_validate(file.data)
    except ValidationError as error:
        raise file.refusal(_explain(error, model)) from None
    if file.problems:
        raise ConfigError(file.problems)
    return result


def _explain(error: ValidationError, model: type[BaseModel]) -> Iterator[Finding]:
    """Each finding as key path, what, remedy; pydantic's own text where there is none of ours."""
    # The refusal tells so many at most, and each costs a search for what was meant.
    for item in islice(error.errors(include_url=False), MAX_TOLD + 1):
        # pydantic marks a finding on a key itself with a last part of its own.
        loc = item["loc"][:-1] if item["loc"][-1:] == ("[key]",) else item["loc"]
        ctx, value = item.get("ctx", {}), item["input"]
        cause = ctx.get("error")
        if isinstance(cause, Invalid):
            for at, what, remedy in cause.findings:
                yield (*loc, *at), what, remedy
        elif item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            yield loc, "unknown key", nearest(str(loc[-1]), _known_keys(model, loc[:-1]))
        elif item["type"] in WORDS:
            yield (loc, *words(item["type"], value, ctx))
        else:
            yield loc, item["msg"].removeprefix("Value error, "), ""


def _sections(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type) and (is_dataclass(annotation) or issubclass(annotation, BaseModel)):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)


def _known_keys(section: type, loc: Loc) -> list[str]:
    """The keys that the mapping at `loc` may have."""
    for part in loc:
        if part in (hints := _hints(section)):
            section = next(_sections(hints[str(part)]), section)
    return list(_hints(section))


def _hints(section: Any) -> dict[str, Any]:
    if issubclass(section, BaseModel):
        return {item.alias or name: item.annotation for name, item in section.model_fields.items()}
    hints = get_type_hints(section)
    return {written_name(item): hints[item.name] for item in fields(section)}
