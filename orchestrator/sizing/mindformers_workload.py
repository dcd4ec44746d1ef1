"""The workload of a run of MindFormers, from its run YAML: degrees, batches, what is recomputed.

Source: MindFormers 1.9.0, `trainer/base_trainer.py` (batches), `modules/transformer/transformer.py` and
`parallel_core/transformer_config_utils.py` (names and defaults of degrees), and
`parallel_core/training_graph/transformer/utils.py` (`LayerSetting`: layers of a stage).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator.checkpoint.cut.network_cut import NetworkCut
from orchestrator.config.mindformers_network import WHERE, dense_decoder, model_table
from orchestrator.config.yaml_messages import Loc, show
from orchestrator.config.yaml_reader import YamlFile
from orchestrator.core.errors import ConfigError
from orchestrator.families.dense_decoder import DenseDecoder
from orchestrator.sizing.step_workload import Workload

__all__ = ["SizedRun", "sized_run"]

_DEVICES_OF_A_HOST = 8
_AUTO = (2, "auto_parallel", "AUTO_PARALLEL")
_ALL = 2**31  # blocks of a stage
_SHARDING = ("parallel", "parallel_optimizer_config")
_TRAINS = {"train": True, "finetune": True, "predict": False}
_DEGREES = {
    "data_parallel": ("data_parallel", "data_parallel_size"),
    "model_parallel": ("model_parallel", "tensor_model_parallel_size"),
    "pipeline_stage": ("pipeline_stage", "pipeline_model_parallel_size"),
    "context_parallel": ("context_parallel", "context_parallel_size"),
}
# Those that keep two float32 moments of each value, as it is estimated.
_ADAM = ("AdamW", "FusedAdamW", "FP32StateAdamWeightDecay", "AdamWeightDecay")
_NO_POOL = "HCCL's buffers, outside the pool, are not reckoned: MindSpore makes the groups itself"


@dataclass(frozen=True, slots=True)
class SizedRun:
    """What a run YAML asks for.

    `notes`, in a line each: what was assumed, and what is not reckoned. `memory`: the size that it gives
    MindSpore's pool.
    """

    network: DenseDecoder
    workload: Workload
    notes: tuple[str, ...]
    memory: str | None


def sized_run(
    run: YamlFile,
    model: YamlFile | None = None,
    *,
    ranks: int | None = None,
    ranks_per_host: int | None = None,
) -> SizedRun:
    """Read the workload of a run YAML; `model` is the config.json of its `pretrained_model_dir`.

    `ranks` and `ranks_per_host` are a job's, which say what `data_parallel` is where it is left out. Raises
    ConfigError with file, line and key: a model that is not estimated, a value that is none.
    """
    return _Reader(run).read(model, ranks, ranks_per_host)


class _Reader:
    def __init__(self, run: YamlFile) -> None:
        self.run = run
        self.notes: list[str] = []

    def read(self, model: YamlFile | None, ranks: int | None, ranks_per_host: int | None) -> SizedRun:
        run, trains = self.run, self._trains()
        whole = self._flag(("parallel_config", "vocab_emb_dp"))
        table = model_table(run, model)
        network, notes = dense_decoder(table, cuts_vocabulary=None if whole is None else not whole)
        self.notes += notes
        dp, mp, pp, cp = self._degrees(ranks)
        cut = NetworkCut(network.family, dp * cp, mp, pp, trains and self._shards() and dp * cp > 1)
        size, parts = self._batches(trains, pp)
        chunks = self._number((*WHERE, "pp_interleave_num"), 1) if pp > 1 else 1
        again, recomputed = self._recomputed(pp, chunks) if trains else (False, ())
        workload = Workload(
            cut=cut,
            batch_size=size,
            micro_batch_num=parts,
            recompute=again,
            trains=trains,
            ranks_per_host=ranks_per_host or min(cut.world_size, _DEVICES_OF_A_HOST),
            flash=network.use_flash_attention and self._on_ascend(),
            cuts_sequence=trains and mp > 1 and self._flag(("parallel_config", "use_seq_parallel")) is True,
            scatters=True,
            automatic=True,
            gathers_again=self._flag(("recompute_config", "parallel_optimizer_comm_recompute")) is True,
            accumulates_pieces=self._flag((*_SHARDING, "gradient_accumulation_shard")) is True,
            context_parts=cp,
            interleave=chunks,
            stage_layers=self._layers(network.num_layers, pp, chunks),
            recomputed=recomputed,
            selected=self._selected(pp, chunks) if trains and not again else (),
            cache_tokens=None if trains else self._cache_tokens(),
        )
        self._tell(trains, cp)
        memory = run.get(("context", "max_device_memory"))
        return SizedRun(network, workload, tuple(self.notes), str(memory) if memory else None)

    def _error(self, loc: Loc, what: str, remedy: str = "") -> ConfigError:
        return ConfigError([self.run.problem(loc, what, remedy)])

    def _trains(self) -> bool:
        mode = self.run.get(("run_mode",)) or "train"
        if not isinstance(mode, str) or mode not in _TRAINS:
            what = f"{show(mode)} is not estimated"
            raise self._error(("run_mode",), what, "train, finetune and predict are")
        return _TRAINS[mode]

    def _number(self, loc: Loc, usual: int) -> int:
        value = self.run.get(loc)
        if value is None:
            return usual
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 2**31:
            raise self._error(loc, f"is {show(value)}, not a whole number above 0")
        return value

    def _flag(self, loc: Loc) -> bool | None:
        value = self.run.get(loc)
        if value is not None and not isinstance(value, bool):
            raise self._error(loc, f"is {show(value)}, not True or False")
        return value

    def _on_ascend(self) -> bool:
        return (self.run.get(("context", "device_target")) or "Ascend") == "Ascend"

    def _degrees(self, ranks: int | None) -> tuple[int, int, int, int]:
        """data, model, pipeline, context; of one device without `use_parallel`."""
        if self._flag(("use_parallel",)) is False:
            return 1, 1, 1, 1
        found: dict[str, int | None] = {}
        for name, keys in _DEGREES.items():
            given = [("parallel_config", key) for key in keys if self.run.get(("parallel_config", key))]
            found[name] = self._number(given[0], 1) if given else None
        mp, pp, cp = (found[key] or 1 for key in ("model_parallel", "pipeline_stage", "context_parallel"))
        dp = found["data_parallel"]
        if dp is None and self.run.get(("parallel", "parallel_mode")) in _AUTO:
            what = "lets MindSpore choose how the network is cut, which is not estimated"
            raise self._error(("parallel", "parallel_mode"), what, "give the degrees in parallel_config")
        if dp is None:
            dp = max(1, ranks // (mp * pp * cp)) if ranks else 1
            self.notes.append(f"parallel_config.data_parallel is left out: {dp} is assumed")
        if ranks is not None and dp * mp * pp * cp != ranks:
            what = (
                f"data {dp} × model {mp} × pipeline {pp} × context {cp} are {dp * mp * pp * cp} ranks, "
                f"the job has {ranks}"
            )
            raise self._error(("parallel_config", "data_parallel"), what, "change one of them")
        return dp, mp, pp, cp

    def _shards(self) -> bool:
        """Whether the optimizer's state is shared out; plain data parallelism cuts no weights."""
        mode = self.run.get(("parallel", "parallel_mode"))
        said = (("parallel", "enable_parallel_optimizer"), ("parallel_config", "optimizer_shard"))
        asked = any([self._flag(loc) for loc in said])
        if asked and mode in (0, "data_parallel", "DATA_PARALLEL"):
            self.notes.append("enable_parallel_optimizer is not reckoned with parallel_mode 0")
            return False
        size = self.run.get((*_SHARDING, "optimizer_weight_shard_size"))
        if asked and isinstance(size, int) and size > 0:
            self.notes.append(f"optimizer_weight_shard_size {size} is not reckoned: all replicas share")
        return asked

    def _batches(self, trains: bool, pp: int) -> tuple[int, int]:
        """Sequences of a replica and step, and in how many parts they are computed."""
        if not trains:
            return self._number((*WHERE, "batch_size"), 1), 1
        size = self._number(("runner_config", "batch_size"), 1)
        both = self._number(("micro_batch_interleave_num",), 1)
        if pp == 1:
            parts = self._number(("runner_config", "gradient_accumulation_steps"), 1)
            return size * both * parts, parts
        loc = ("parallel_config", "micro_batch_num")
        parts = self._number(loc, 1)
        if parts < pp:
            what = f"{parts} micro batches are fewer than {pp} stages"
            raise self._error(loc, what, f"choose at least {pp}")
        return size * both * parts, parts

    def _layers(self, num_layers: int, pp: int, chunks: int) -> tuple[int, ...]:
        """Blocks of each stage; () where there is one."""
        loc: Loc = (*WHERE, "offset")
        offset = self.run.get(loc)
        if pp == 1:
            return ()
        base, rest = divmod(num_layers, pp * chunks)
        rows = self._rows(loc, offset if isinstance(offset, list) else [offset or 0] * pp, pp, chunks)
        if not all(isinstance(item, int) and abs(item) < 2**31 for row in rows for item in row):
            raise self._error(loc, f"is {show(offset)}, not whole numbers")
        stages = tuple(sum(base + row[stage] for row in rows) for stage in range(pp))
        if sum(stages) != num_layers or min(stages) < 0:
            what = f"leaves the stages {sum(stages)} of the network's {num_layers} layers"
            remedy = f"its sum must be {rest}, what is left when {pp * chunks} parts have {base} each"
            raise self._error(loc, what, remedy)
        return stages

    def _rows(self, loc: Loc, value: list[Any], pp: int, chunks: int) -> list[list[Any]]:
        """A list of stages for each chunk; where there is one for all it is repeated, as NumPy does."""
        rows = value if value and all(isinstance(item, list) for item in value) else [value] * chunks
        if len(rows) != chunks or any(len(row) != pp for row in rows):
            wanted = f"{pp} stages" + (f" of {chunks} chunks" if chunks > 1 else "")
            raise self._error(loc, f"is {show(value)}, not of {wanted}")
        return rows

    def _recomputed(self, pp: int, chunks: int) -> tuple[bool, tuple[int, ...]]:
        """Whether all blocks are, or how many of each stage."""
        section = self.run.get(("recompute_config",))
        if isinstance(section, bool):
            return section, ()
        value = self.run.get(("recompute_config", "recompute"))
        if value is None or isinstance(value, bool):
            return bool(value), ()
        stages = self._counts(("recompute_config", "recompute"), pp, chunks)
        if stages is None:
            what = f"is {show(value)}, which is not estimated"
            remedy = "True, False and numbers of layers of each stage are"
            raise self._error(("recompute_config", "recompute"), what, remedy)
        return False, stages

    def _selected(self, pp: int, chunks: int) -> tuple[int, ...]:
        """Of how many blocks of each stage the MLP's products are recomputed: the default of its patterns."""
        key: Loc = ("recompute_config", "select_recompute")
        if isinstance(self.run.get(key[:1]), bool):
            return ()
        for name in ("select_recompute", "select_comm_recompute"):
            value = self.run.get((*key[:1], name))
            if value in (None, False, [], {}) or (name == key[1] and self._counts(key, pp, chunks)):
                continue
            self.notes.append(f"{name} is not reckoned: activations are somewhat fewer")
        return self._counts(key, pp, chunks) or ()

    def _counts(self, loc: Loc, pp: int, chunks: int) -> tuple[int, ...] | None:
        """Blocks of each stage that a key of `recompute_config` means; None where it is written otherwise."""
        value = self.run.get(loc)
        if value is True:
            return (_ALL,) * pp
        if not isinstance(value, list) or not value:
            return None
        is_nested = all(isinstance(item, list) for item in value)
        if chunks > 1 and not is_nested:
            return None
        rows = value if is_nested else [value]
        counts = [[_ALL if item is True else item for item in row] for row in rows]
        if len(rows) != chunks or not all(len(row) == pp and all(map(_is_count, row)) for row in counts):
            return None
        return tuple(min(_ALL, sum(row[stage] for row in counts)) for stage in range(pp))

    def _cache_tokens(self) -> int | None:
        """Positions of the paged cache, where the model's configuration gives its blocks."""
        if self.run.get((*WHERE, "num_blocks")) is None:
            return None
        return self._number((*WHERE, "num_blocks"), 1) * self._number((*WHERE, "block_size"), 16)

    def _tell(self, trains: bool, cp: int) -> None:
        kind = self.run.get(("optimizer", "type"))
        if trains and kind is not None and kind not in _ADAM:
            self.notes.append(f"optimizer {show(kind)} is reckoned as AdamW: two float32 moments a value")
        if cp > 1:
            self.notes.append("what the ranks of one sequence exchange (context_parallel) is not reckoned")
        if trains and self._number(("parallel_config", "seq_split_num"), 1) > 1:
            self.notes.append("seq_split_num is not reckoned")
        if (
            self.run.get(("swap_config", "swap")) is True
            or self.run.get(("recompute_config", "swap")) is True
        ):
            self.notes.append("what is moved to the host's memory (swap) is not reckoned")
        self.notes.append(_NO_POOL)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 0
