"""The modules of MindFormers that its page imports from, each made of what the compatibility package has.

`mindformers.models.bloom` and `model.models.bloom` are no files: a finder answers for them. So a script runs
with `mindformers` replaced by `model`, and unchanged where `python -m model run` has installed the finder for
`mindformers`, too.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["PUBLIC", "answer_for", "known_names"]

_AUTO, _CONFIG, _CONTEXT = (
    f"model.compatibility.{name}" for name in ("auto_model", "editable_config", "script_context")
)
# Name -> module that has it. Imported when they are asked for: MindSpore takes seconds.
PUBLIC: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "AutoConfig",
            "AutoModel",
            "AutoTokenizer",
            "BloomLMHeadModel",
            "TextGenerationPipeline",
            "pipeline",
        ),
        _AUTO,
    ),
    **dict.fromkeys(("BloomConfig", "TransformerOpParallelConfig"), _CONFIG),
    **dict.fromkeys(("ContextConfig", "ParallelContextConfig", "init_context"), _CONTEXT),
}
_BLOOM = ("BloomConfig", "BloomLMHeadModel", "BloomTokenizer")
_AUTO_CLASSES = ("AutoConfig", "AutoModel", "AutoTokenizer")
_CONTEXTS = ("ContextConfig", "ParallelContextConfig", "init_context")
_CHECKPOINTS, _WORDS = ("get_last_checkpoint",), ("get_real_rank", "logger", "str2bool")
_PIPELINES = ("TextGenerationPipeline", "pipeline")
_EVERYWHERE = {
    **PUBLIC,
    "BloomTokenizer": f"{_AUTO}:AutoTokenizer",
    **dict.fromkeys(("get_last_checkpoint", "get_real_rank", "str2bool"), _CONTEXT),
}
# Module within the package -> the names that can be imported from it.
_MODULES: Mapping[str, Sequence[str]] = {
    "auto_class": _AUTO_CLASSES,
    "core": _CONTEXTS,
    "core.context": _CONTEXTS,
    "models": _BLOOM,
    "models.auto": _AUTO_CLASSES,
    "models.bloom": _BLOOM,
    "models.bloom.bloom": ("BloomLMHeadModel",),
    "models.bloom.bloom_config": ("BloomConfig",),
    "models.bloom.bloom_tokenizer": ("BloomTokenizer",),
    "modules": ("TransformerOpParallelConfig",),
    "modules.transformer": ("TransformerOpParallelConfig",),
    "pipeline": _PIPELINES,
    "tools": _WORDS,
    "tools.logger": ("logger",),
    "tools.utils": _WORDS,
    "trainer": _CHECKPOINTS,
    "trainer.utils": _CHECKPOINTS,
}


class _Finder(MetaPathFinder, Loader):
    """Answers for the modules below `root`, and for `root` itself where it is no package of its own."""

    def __init__(self, root: str, *, is_whole: bool) -> None:
        self._root, self._is_whole = root, is_whole

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        root, _, inner = fullname.partition(".")
        if root != self._root or not (inner in _MODULES if inner else self._is_whole):
            return None
        # A name that the package itself has, such as the function `pipeline`, is no module of it.
        if inner in PUBLIC and not self._is_whole:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        inner = module.__name__.partition(".")[2]
        names = _MODULES[inner] if inner else tuple(PUBLIC)

        def find(name: str) -> Any:
            if name not in names and (f"{inner}.{name}" if inner else name) in _MODULES:
                return importlib.import_module(f"{module.__name__}.{name}")
            if name not in names:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            if name == "logger":
                import logging

                return logging.getLogger("mindformers")
            home, _, attribute = _EVERYWHERE[name].partition(":")
            return getattr(importlib.import_module(home), attribute or name)

        module.__dict__["__getattr__"] = find
        module.__dict__["__all__"] = list(names)


def known_names() -> list[str]:
    """What can be imported, from wherever MindFormers has it."""
    return sorted({*_EVERYWHERE, "logger"})


def answer_for(root: str, *, is_whole: bool = False) -> None:
    """Have `import <root>.models.bloom` and the like answered; with `is_whole`, `import <root>` too."""
    if not any(isinstance(one, _Finder) and one._root == root for one in sys.meta_path):
        sys.meta_path.append(_Finder(root, is_whole=is_whole))
