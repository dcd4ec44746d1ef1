"""Where a model's files are: a local folder, the cache, or the Hugging Face hub.

The cache is `$ORCHESTRATE_CACHE`, or `$XDG_CACHE_HOME/orchestrate/models`; in it `<owner>--<name>/` holds
a model in MindSpore's form, and `downloads/<owner>--<name>/` may hold Hugging Face's files that a person put
there. The hub's client keeps its own cache and honours HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN and the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from model.errors import ModelError
from model.weights.convert import convert
from model.weights.hub_connection import why_unreachable
from orchestrator.checkpoint.atomic import mapped_errors, new_folder
from orchestrator.checkpoint.open_checkpoint import INDEXES, holds_weights
from orchestrator.families.registry import hub_names

__all__ = ["cache_folder", "checkpoint_file", "model_file", "model_folder", "tokenizer_file", "weights_at"]

WEIGHTS = "model.ckpt"
_CHECKPOINTS = (".ckpt", ".safetensors")
_SMALL = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def cache_folder() -> Path:
    """Where converted models are kept."""
    own = os.environ.get("ORCHESTRATE_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(home) / "orchestrate/models"


def model_folder(name: str | Path) -> Path:
    """A folder with the weights in MindSpore's form, config.yaml and tokenizer.json.

    `name` is a folder of either form, a name on the hub (`bigscience/bloom-560m`) or one of `hub_names`. What
    is not in MindSpore's form is converted once and kept in the cache; whoever asks at the same time waits.
    ModelError: nothing of this name, the hub cannot be reached; it says which files to put where.
    """
    path = Path(name)
    if str(name) and path.is_dir():
        if (path / "config.yaml").is_file() or not holds_weights(path):
            return path
        return _converted(_fingerprint(path), path)
    repository = _repository(name)
    key = repository.replace("/", "--")
    kept = cache_folder() / key
    if (kept / WEIGHTS).is_file():
        return kept
    return _converted(key, None, repository)


def model_file(name: str | Path, file: str) -> Path:
    """One small file of a model, such as tokenizer.json, without the weights; ModelError if there is none."""
    path = Path(name)
    places = [path]
    if not str(name) or not path.is_dir():
        key = _repository(name).replace("/", "--")
        places = [cache_folder() / key, cache_folder() / "downloads" / key]
    for place in places:
        if (place / file).is_file():
            return place / file
    if places == [path]:
        raise ModelError(f"there is no {file} in the folder", where=str(path))
    repository = _repository(name)
    # Late: the client takes a while to import, and a local folder needs none.
    from huggingface_hub import hf_hub_download

    with _hub_errors(repository):
        why = _no_connection()
        try:
            return Path(hf_hub_download(repository, file, local_files_only=bool(why)))
        except Exception as error:
            raise (_NoConnectionError(why) if why else error) from None


def checkpoint_file(name: str | Path) -> Path:
    """The weights in MindSpore's form: the file itself, or the one in `model_folder(name)`."""
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix in _CHECKPOINTS and not path.is_dir():
        raise ModelError("there is no such checkpoint file", where=str(path))
    folder = model_folder(name)
    found = sorted(file for file in folder.iterdir() if file.suffix in _CHECKPOINTS)
    if len(found) != 1:
        raise ModelError(
            f"holds {len(found)} checkpoint files",
            where=str(folder),
            remedy="there must be one .ckpt or .safetensors",
        )
    return found[0]


def weights_at(name: str) -> Path:
    """What a job's checkpoint.load means: a file or folder, or the weights of one of `hub_names`."""
    path = Path(name)
    return checkpoint_file(name) if name in hub_names() and not path.exists() else path


def tokenizer_file(name: str | Path) -> Path:
    """A tokenizer.json: the file itself, the one in a folder, or that of a name, without its weights."""
    path = Path(name)
    if path.is_file() or (path.suffix == ".json" and not path.is_dir()):
        return path  # who reads it says what is wrong with it
    return model_file(name, "tokenizer.json")


def _repository(name: str | Path) -> str:
    text = str(name)
    names = hub_names()
    repository = names.get(text, text)
    if not _HUB_NAME.fullmatch(repository):
        raise ModelError(
            f"{text!r} is no folder and no model's name",
            remedy=f"names are {', '.join(names)}, or of the hub, such as bigscience/bloom-560m",
        )
    return repository


def _fingerprint(folder: Path) -> str:
    """A name for a folder as it is now: other weights in it are another model."""
    facts = [str(folder.resolve())]
    for path in sorted(folder.iterdir()):
        status = path.stat()
        facts.append(f"{path.name} {status.st_size} {status.st_mtime_ns}")
    return f"local--{folder.resolve().name}--{hashlib.sha256(chr(10).join(facts).encode()).hexdigest()[:16]}"


def _converted(key: str, source: Path | None, repository: str = "") -> Path:
    kept = cache_folder() / key
    with mapped_errors(kept):
        kept.parent.mkdir(parents=True, exist_ok=True)
    with _locked(kept.with_name(f".{key}.lock")):
        # Somebody may have made it while this one waited.
        if (kept / WEIGHTS).is_file():
            return kept
        files = source or _downloaded(repository)
        with new_folder(kept) as building:
            convert(files, building / WEIGHTS)
    return kept


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with mapped_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _downloaded(repository: str) -> Path:
    """A folder with Hugging Face's files: what a person put there, or what the hub gives."""
    by_hand = _by_hand(repository)
    if holds_weights(by_hand):
        return by_hand
    # Late: see model_file.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    with _hub_errors(repository):
        try:
            if why := _no_connection():
                raise _NoConnectionError(why)
            siblings = HfApi().model_info(repository).siblings or []
        except (OfflineModeIsEnabled, _NoConnectionError) as error:
            # Perhaps the client has it from another day.
            folder = _from_another_day(repository)
            if folder is None:
                raise error from None
            return folder
        return Path(
            snapshot_download(
                repository, allow_patterns=_wanted([item.rfilename for item in siblings], repository)
            )
        )


class _NoConnectionError(Exception):
    """Nobody answers where the hub should be."""


def _no_connection() -> str:
    """Why the hub cannot be reached; nothing where it can, or where its client is told to ask nobody."""
    from huggingface_hub import constants

    return "" if constants.HF_HUB_OFFLINE else why_unreachable(constants.ENDPOINT)


def _from_another_day(repository: str) -> Path | None:
    """The folder of the hub's client for a model that it has whole; None where it has not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        return None
    return folder if holds_weights(folder) else None


def _wanted(files: Sequence[str], repository: str) -> list[str]:
    """Config, tokenizer, and the weights in one form: a repository often has them in several."""
    there = {file for file in files if "/" not in file}
    small = [file for file in _SMALL if file in there]
    for index, single in zip(INDEXES, ("model.safetensors", "pytorch_model.bin"), strict=True):
        if index in there:
            suffix = Path(single).suffix
            return [*small, index, *sorted(file for file in there if file.endswith(suffix))]
        if single in there:
            return [*small, single]
    raise ModelError("holds no weights that can be read", where=repository)


def _by_hand(repository: str) -> Path:
    return cache_folder() / "downloads" / repository.replace("/", "--")


@contextlib.contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """The one door for what the hub's client says."""
    from huggingface_hub import errors

    try:
        yield
    except ModelError:
        raise
    except errors.GatedRepoError as error:
        raise ModelError(
            "is gated", where=repository, remedy="accept its terms on the hub and set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            "is no folder, and the hub has no model of this name",
            where=repository,
            remedy="check the name; a private one needs HF_TOKEN",
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise ModelError(f"lacks a file: {_first_line(error)}", where=repository) from error
    # The client lets through whatever its HTTP library and the system raise, and the two differ by version.
    except Exception as error:
        raise ModelError(
            f"cannot be downloaded: {_first_line(error)}",
            where=repository,
            remedy="put config.json, tokenizer.json and model.safetensors (or pytorch_model.bin, or all "
            f"shards with their index) into {_by_hand(repository)}",
        ) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
