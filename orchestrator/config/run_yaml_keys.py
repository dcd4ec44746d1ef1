"""The keys that run YAMLs of MindFormers 1.0 to 2.1 have, and what is misspelt or contradicts a job.

At the top of the file and in its sections of fixed keys; sections such as `model.model_config` and
`train_dataset` take what their classes take. From mindformers/tools/register/template.py, trainer/ and
core/context/ of its wheels, and the files in their configs/.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from orchestrator.config.run_yaml import RunYaml
from orchestrator.config.yaml_messages import show
from orchestrator.core.errors import Problem

__all__ = ["CUTS_NOTHING", "known_in", "misspelt", "refused"]

# Keys of `parallel_config` by which no weight is cut: how often micro batches are sent, how attention shares
# its own work.
CUTS_NOTHING = frozenset(
    {"micro_batch_num", "gradient_aggregation_group", "mem_coeff", "context_parallel_algo"}
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TOP = _words(
    """
    adapter_id auto_trans_ckpt auto_tune autotune_per_step balanced_load base_config batch_size callbacks
    calculate_per_token_loss check_for_nan_in_loss_and_grad checkpoint context data_size data_skip_steps
    device_num do_eval enable_dump eval_callbacks eval_dataset eval_dataset_task eval_epoch_interval
    eval_step_interval exclude_cann_cpu filepath_prefix generation_config grouped_lr_schedule hub_model_id
    hub_private_repo hub_token ignore_data_skip infer infer_precision_sync init_start_profile input_data
    layer_decay layer_scale load_checkpoint load_ckpt_async load_ckpt_format local_rank lr_scale
    lr_scale_factor lr_schedule metric micro_batch_interleave_num mindio_pool_capacity model moe_config
    monitor_config mp_comm_recompute mstx npu_num_per_node only_save_strategy optimizer output_dir parallel
    parallel_config parallel_optimizer_comm_recompute postprocess_use_numpy predict_batch_size
    pretrained_model_dir print_separate_loss processor profile profile_communication profile_level
    profile_memory profile_output profile_pipeline profile_rank_ids profile_start_step profile_stop_step
    profiler_level push_to_hub rank_id recompute recompute_config recompute_slice_activation
    remote_save_url remove_redundancy reshard_worker_num resume_by_last_timestamp_ckpt resume_training
    run_mode runner_config runner_wrapper save_dump_path save_file seed src_strategy_path_or_dir swap_config
    tensorboard tokenizer top_k train_dataset train_dataset_task train_precision_sync trainer
    transform_by_rank transform_process_num trust_remote_code use_checkpoint_health_monitor
    use_graceful_exit use_legacy use_legacy_format use_parallel with_stack
    """
)
# Sections whose keys are fixed: with any other MindFormers fails, or passes it over.
_SECTIONS = {
    "runner_config": _words(
        """
        batch_size epochs gradient_accumulation_steps has_trained_epoches has_trained_steps image_size
        initial_epoch initial_step num_classes per_epoch_size sink_mode sink_size stop_step
        """
    ),
    "parallel_config": _words(
        """
        context_parallel context_parallel_algo data_parallel expert_model_parallel expert_parallel
        gradient_aggregation_group mem_coeff micro_batch_num model_parallel optimizer_shard pipeline_stage
        seq_split_num ulysses_degree_in_cp use_seq_parallel vocab_emb_dp npu_nums_per_device
        """
    ),
    "recompute_config": _words(
        """
        mp_comm_recompute parallel_optimizer_comm_recompute recompute recompute_slice_activation
        select_comm_recompute select_comm_recompute_exclude select_recompute select_recompute_exclude
        """
    ),
}
# A word this near to a known one is the known one, misspelt.
_NEAR = 0.84


def known_in(section: str = "") -> frozenset[str] | None:
    """The keys of a section, "" is the top; None where its class decides."""
    return _TOP if not section else _SECTIONS.get(section)


def misspelt(run: RunYaml) -> Iterator[Problem]:
    """Keys that are none, and nearly are one."""
    for section in ("", *_SECTIONS):
        table, known = run.get(section) if section else run.data, known_in(section) or frozenset()
        for key in table if isinstance(table, dict) else ():
            path = (section, str(key)) if section else (str(key),)
            close = [] if key in known else difflib.get_close_matches(str(key), sorted(known), 1, _NEAR)
            if close and close[0] not in table:
                yield run.problem(path, "unknown key", f"did you mean `{close[0]}`?")


def refused(run: RunYaml) -> Iterator[Problem]:
    """Why a file cannot be completed at all."""
    if run.has("base_config"):
        what = f"takes keys of {show(run.get('base_config'))}, which is not sent with it"
        yield run.problem(("base_config",), what, "write them into one file")
    if _is_of_pynative(run):
        at = "parallelism" if run.has("parallelism") else "training"
        what = "is of a run YAML for MindFormers' PyNative trainer (2.0 on), which is not completed here"
        yield run.problem((at,), what, "start it with task: command")
    elif not isinstance(run.get("model"), dict) or not isinstance(run.get("trainer"), dict):
        at = "model" if not isinstance(run.get("model"), dict) else "trainer"
        what = f"has no section {at}, as every run YAML of MindFormers' trainer has"
        yield Problem(run.name, what, "name MindFormers' run_<model>.yaml, or pretrain_<model>.yaml")


def _is_of_pynative(run: RunYaml) -> bool:
    """Whether it is of the other kind of 2.0 and later: configs/deepseek3/…_pynative.yaml there."""
    return run.has("parallelism") or (run.has("training") and not run.has("runner_config"))
