"""Modules that others import at their top and hardly ever use: imported when something of them is used."""

from __future__ import annotations

import importlib
import sys
from typing import Any

__all__ = ["load_late"]


class _Late:
    """Stands for a module among those that are imported, until somebody wants something of it."""

    __spec__ = None  # which the import statement looks at

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        name = self._name
        loaded: dict[str, Any] = sys.modules
        if loaded.get(name) is self:
            del loaded[name]
        return getattr(importlib.import_module(name), attribute)


def load_late(name: str) -> None:
    """Have `import name` cost nothing until something of it is used; nothing, where it has been imported.

    Only for what is no submodule, and certain to be there: that it is not would be known as late.
    """
    sys.modules.setdefault(name, _Late(name))  # type: ignore[arg-type]
