"""How a run of MindFormers is cut: its degrees, and what of the network or the data they do not fit.

MindFormers says so once every rank has its network, minutes after the start, or not at all. Its conditions:
`_check_global_batch_size_for_auto_parallel` of trainer/base_trainer.py, models/llama/llama_transformer.py and
llama_layer.py, parallel_core/transformer_config.py and training_graph/tensor_parallel/utils.py of 1.9.0;
"MicroBatch num must be larger or equal than StageNum" is MindSpore's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.config.run_yaml import RunYaml
from orchestrator.config.yaml_messages import show
from orchestrator.core.errors import Problem
from orchestrator.plan.run_yaml_places import Places

__all__ = ["DEGREES", "degrees_of", "is_auto", "is_degree", "layout_problems", "model_beside"]

DEGREES = ("data_parallel", "model_parallel", "context_parallel", "pipeline_stage")
_AT = "parallel_config"
_MODE = ("parallel", "parallel_mode")
_AUTO = (2, "AUTO_PARALLEL")  # MindSpore finds the degrees
_SEMI_AUTO = (1, "SEMI_AUTO_PARALLEL", None)  # what is not said is 1 in MindFormers 1.9
_DATA = {
    0: "data parallel",
    3: "hybrid parallel",
    "DATA_PARALLEL": "",
    "HYBRID_PARALLEL": "",
    "STAND_ALONE": "",
}
_MODEL = ("model", "model_config")
_HEADS = ("num_heads", "num_attention_heads", "n_head")
_KV_HEADS = ("n_kv_heads", "num_key_value_heads", "num_query_groups")
_SIZES = ("hidden_size",)
_FFN = ("intermediate_size", "ffn_hidden_size")
_EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts", "num_moe_experts", "moe_num_experts")
_CONFIG, _LARGEST = "config.json", 1 << 20


def degrees_of(run: RunYaml, ranks: int) -> dict[str, Any]:
    """Each degree, 1 where it is not given, as in MindFormers; of replicas what the others leave."""
    table = run.get(_AT)
    # One rank without use_parallel: MindFormers does not look at them.
    counts = ranks > 1 or bool(run.get("use_parallel"))
    given = table if counts and isinstance(table, dict) else {}
    degrees = {key: 1 if given.get(key) is None else given[key] for key in DEGREES}
    if given.get("data_parallel") is None and all(map(is_degree, degrees.values())):
        others = math.prod(degrees.values())
        degrees["data_parallel"] = ranks // others if ranks % others == 0 else 1
    return degrees


def is_degree(value: object) -> bool:
    """Whether it is a whole number above 0."""
    return type(value) is int and value > 0


def is_auto(run: RunYaml) -> bool:
    """Whether MindSpore finds the degrees by itself."""
    return _is_one_of(run.get(*_MODE), _AUTO)


def _is_one_of(value: object, known: tuple[object, ...]) -> bool:
    return not isinstance(value, (bool, list, dict)) and value in known


def model_beside(run: RunYaml, folder: Path) -> Mapping[str, Any]:
    """What the config.json says that the run YAML names; nothing where it is not here, or is none."""
    named = run.get("pretrained_model_dir")
    if not isinstance(named, str) or not named or named.startswith(("/", "~")):
        return {}
    try:
        with (folder / named / _CONFIG).open("rb") as file:
            found = json.loads(file.read(_LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def layout_problems(
    run: RunYaml, places: Places, degrees: Mapping[str, int], model: Mapping[str, Any]
) -> Iterator[Problem]:
    """Why a training cut like this would fail, or do another thing than is written.

    `degrees` are sound and make up the number of ranks; `model` is the config.json, which the run YAML goes
    before.
    """
    mode = run.get(*_MODE)
    if isinstance(mode, (bool, list, dict)):
        return
    if mode in _DATA:
        yield from _passed_over(run, places, degrees, mode)
    elif mode in _SEMI_AUTO:
        yield from _micro_batches(run, places, degrees["pipeline_stage"])
        yield from _data_strategy(run, places, degrees["data_parallel"])
        yield from _uneven(run, places, degrees, model)


def _passed_over(run: RunYaml, places: Places, degrees: Mapping[str, int], mode: Any) -> Iterator[Problem]:
    """MindFormers takes every degree for 1 in these modes, and does not say so."""
    for key in DEGREES[1:]:
        if degrees[key] > 1:
            there = places.where(_MODE)
            called = f" ({_DATA[mode]})" if _DATA[mode] else ""
            what = (
                f"is {degrees[key]}, but {there} is {mode}{called}, where MindFormers takes it for 1: each "
                "rank would hold the whole model"
            )
            yield places.problem((_AT, key), what, "write 1, or parallel.parallel_mode: 1")


def _micro_batches(run: RunYaml, places: Places, stages: int) -> Iterator[Problem]:
    scheduler = run.get("parallel", "pipeline_config", "pipeline_scheduler")
    given, split = run.get(_AT, "micro_batch_num"), run.get(_AT, "seq_split_num")
    if stages == 1 or scheduler == "gpipe" or split not in (None, 1):
        return
    count = 1 if given is None else given
    least = 2 * stages if scheduler == "zero_bubble_v" else stages
    if not is_degree(count):
        yield places.problem((_AT, "micro_batch_num"), f"expected a whole number above 0, got {show(count)}")
    elif count < least:
        there = places.where((_AT, "pipeline_stage"))
        said = f"is {count}" if given is not None else "is left out, which is 1"
        what = f"{said}, and the {stages} stages of {there} need at least {least} micro batches"
        yield places.problem((_AT, "micro_batch_num"), what, f"write {least} or more")


def _data_strategy(run: RunYaml, places: Places, replicas: int) -> Iterator[Problem]:
    """MindFormers of before 1.5 does not compare them, and each rank then has a wrong part of the data."""
    at = ("parallel", "dataset_strategy")
    strategy = run.get(*at)
    if run.get("parallel", "full_batch") or not isinstance(strategy, list) or not strategy:
        return  # by full_batch the list is of no effect
    first = strategy[0]
    parts = first[0] if isinstance(first, list) and first else None
    if parts == replicas and type(parts) is int:
        return
    if run.get(_AT, "data_parallel") is None:
        # The key is not there: its number follows from the job.
        there = f"which {places.job.where('devices_per_host')} leaves of the ranks"
    else:
        there = f"by {places.where((_AT, 'data_parallel'))}"
    what = f"cuts the first input into {show(parts)}, and data_parallel is {replicas}, {there}"
    yield places.problem(at, what, f"both must be equal: [[{replicas}, 1], …]")


def _uneven(
    run: RunYaml, places: Places, degrees: Mapping[str, int], model: Mapping[str, Any]
) -> Iterator[Problem]:
    """Dimensions of the network that model_parallel does not divide."""
    parts = degrees["model_parallel"]
    written = run.get(*_MODEL)
    values = {**model, **(written if isinstance(written, dict) else {})}
    if values.get("use_3d_tensor_parallel") or not isinstance(written, (dict, type(None))):
        return
    heads_among, why = _attention_parts(run, degrees)
    checks = [(_HEADS, heads_among, why), (_SIZES, parts, "")]
    # GLM's own classes repeat heads of keys and values.
    if values.get("type") != "ChatGLM2Config":
        legacy = run.get("use_legacy") is not False
        checks.append((_KV_HEADS, heads_among if legacy else parts, why if legacy else ""))
    if not any(is_degree(values.get(key)) and values[key] > 1 for key in _EXPERTS):
        checks.append((_FFN, parts, ""))
    if run.get("use_legacy") is False:  # the older networks do not cut such a vocabulary
        checks.append((("vocab_size",), parts, ""))
    for keys, among, factors in checks:
        key = next((key for key in keys if is_degree(values.get(key))), None)
        if key is None or values[key] % among == 0:
            continue
        there = places.where((_AT, "model_parallel"))
        by = f"model_parallel {parts}{factors}"
        where = places.where((*_MODEL, key))
        if not run.has(*_MODEL, key):
            where = f"{run.get('pretrained_model_dir')}/{_CONFIG}: {key}"
        what = f"{values[key]} cannot be divided by {by} of {there}"
        yield Problem(where, what, "take a model_parallel that divides it")


def _attention_parts(run: RunYaml, degrees: Mapping[str, int]) -> tuple[int, str]:
    """Among how many ranks heads are dealt out, and what there is beside model_parallel."""
    context, parts = degrees["context_parallel"], degrees["model_parallel"]
    way = run.get(_AT, "context_parallel_algo")
    if context > 1 and way == "ulysses_cp":
        return parts * context, f" × context_parallel {context}"
    inner = run.get(_AT, "ulysses_degree_in_cp")
    if context > 1 and way == "hybrid_cp" and is_degree(inner):
        return parts * inner, f" × ulysses_degree_in_cp {inner}"
    return parts, ""
