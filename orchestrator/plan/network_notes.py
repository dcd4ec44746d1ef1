"""What a job says, or leaves out, of networking, and what comes of it that nobody may have meant."""

from __future__ import annotations

from orchestrator.config.job import Job

__all__ = ["network_notes"]


def network_notes(job: Job, *, meets: bool) -> tuple[str, ...]:
    """The notes on a job whose ranks meet each other, or that has but one."""
    return _second_program(job) if meets else _unused_networking(job)


def _second_program(job: Job) -> tuple[str, ...]:
    """That a program which knows nothing of MindSpore's scheduler is started as one, too, unasked."""
    if job.task != "command" or not job.networking.has_scheduler or job.says("networking", "mode"):
        return ()
    left_out = "networking.mode is left out"
    if not job.says("device_target"):
        left_out += f", and device_target, which is {job.device_target} then"
    what = f"{left_out}: {job.networking.mode} runs the command once more, as MindSpore's scheduler (MS_ROLE "
    return (
        f"{what}MS_SCHED, rank 0); a program without mindspore's init() needs networking: {{mode: none}}",
    )


def _unused_networking(job: Job) -> tuple[str, ...]:
    """What a job of one rank says of networking, and what comes of it."""
    mode, port = job.networking.mode, job.networking.port
    if mode == "none":
        return ()
    also = f", and networking.port {port} is not used" if port is not None else ""
    return (f"one rank meets nobody: networking.mode {mode} starts no scheduler and places no table{also}",)
