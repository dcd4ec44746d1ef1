"""AutoConfig, AutoTokenizer and AutoModel as MindFormers has them: from a name or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model.config import BloomConfig, load_config, preset_names
from model.device_name import DeviceName, parse_device
from model.hf_config import load_hf_config
from model.hub import checkpoint_file, model_file, model_folder, tokenizer_file
from model.pretrained import PretrainedModel
from model.tokenizer import Tokenizer, read_tokenizer

__all__ = ["AutoConfig", "AutoModel", "AutoTokenizer"]


class AutoConfig:
    """The config of a model."""

    @staticmethod
    def from_pretrained(name: str | Path, **overrides: Any) -> BloomConfig:
        """From a yaml of ours, a config.json, a folder with one of them, a preset, or a name.

        A short name (`bloom_560m`) gives the preset, without any download. Fields can be overridden.
        """
        path, text = Path(name), str(name)
        if path.is_file():
            return load_hf_config(path, overrides) if path.suffix == ".json" else load_config(path, overrides)
        if path.is_dir():
            own = path / "config.yaml"
            if own.is_file():
                return load_config(own, overrides)
            return load_hf_config(model_file(path, "config.json"), overrides)
        preset = text.removeprefix("bloom_")
        if preset in preset_names():
            return load_config(preset, overrides)
        return load_hf_config(model_file(name, "config.json"), overrides)


class AutoTokenizer:
    """The tokenizer of a model."""

    @staticmethod
    def from_pretrained(name: str | Path) -> Tokenizer:
        """From a tokenizer.json, a folder with one, or a name; the weights are not downloaded for it."""
        return read_tokenizer(tokenizer_file(name))


class AutoModel:
    """A whole network with its weights.

    On the device that MindSpore is set to, by `mindspore.set_device` or else by its own default, which is
    Ascend where MindSpore finds one; or on `device`: "cpu", "Ascend:1". A process has one device: another one
    than that in use is refused with a ModelError.
    """

    @staticmethod
    def from_pretrained(name: str | Path, *, device: str | None = None, **overrides: Any) -> PretrainedModel:
        """From a folder of either form or a name, see `model.hub`; fields of the config can be overridden."""
        where, folder = _device(device), model_folder(name)
        config = load_config(folder / "config.yaml", overrides)
        return PretrainedModel.load(checkpoint_file(folder), config, device=where)

    @staticmethod
    def from_config(
        config: BloomConfig, checkpoint: str | Path | None = None, *, device: str | None = None
    ) -> PretrainedModel:
        """From a config, with the weights of a checkpoint file, or freshly drawn."""
        where = _device(device)
        return PretrainedModel.load(None if checkpoint is None else Path(checkpoint), config, device=where)


def _device(text: str | None) -> DeviceName | None:
    return None if text is None else parse_device(text, "device")
