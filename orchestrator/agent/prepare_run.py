"""The prepare phase on one host: directory, files, rank table, locks, supervisor; or nothing at all.

A run's first attempt makes its directory. A later one is made in it, or, on a host that never had the run,
makes it too; what fails then leaves the attempts before as they were, byte for byte. What the later attempt
brings (`inputs/`, `code/`, files of the working directory) replaces only what has other bytes, and what it
replaces is kept until the attempt is discarded.
"""

from __future__ import annotations

import os
from typing import Any, Dict, Mapping, Optional

from orchestrator.agent import attempt_guard, daemon, host_probe
from orchestrator.agent.content_store import Store, sha256_of
from orchestrator.agent.device_hold import taken_over
from orchestrator.agent.placed_inputs import place_inputs
from orchestrator.core.claims import NO_CLAIM, KeptClaim
from orchestrator.core.codec import dumps
from orchestrator.core.copier_config import CONFIG_NAME, KEY_NAME
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import RUN_YAML, AttemptDir, RunDir, Workdir
from orchestrator.core.records import Claim, Manifest

__all__ = ["prepare"]

_MORE = (CONFIG_NAME, KEY_NAME, RUN_YAML)


def prepare(
    workdir: Workdir,
    manifest: Manifest,
    *,
    worker_config: str,
    rank_table: Optional[str],
    claim: Claim = NO_CLAIM,
    more: Optional[Mapping[str, str]] = None,
) -> Dict[str, Any]:
    """Make an attempt of a run ready to start on this host; what fails leaves no trace.

    `more` are the copier's files and the run YAML of MindFormers, for the folder of the attempt.

    Returns the SHA-256 of the files that must be the same on every host, read back from disk. Raises
    AgentError: kind `run_exists` where the attempt has been here already, `still_running` where one before
    it runs, `newer_attempt` where a later one is in force, `claim` where another control node acts.
    """
    if manifest.scheduler is not None and manifest.port is not None:
        # Its own name for it: `address` may be a name that means nothing, or something else, on this host.
        host_probe.require_port(
            manifest.scheduler.env.get("MS_SCHED_HOST") or manifest.address, manifest.port
        )
    run, mine = workdir.run(manifest.run_id), manifest.attempt
    if mine.number > 1:
        # In this order: who may not act clears nothing away.
        attempt_guard.require_claim(workdir, manifest.run_id, claim)
        attempt_guard.require_room(workdir, manifest.run_id, mine, claim)
    files = {"manifest.json": dumps(manifest), "worker.yaml": worker_config}
    files.update({name: text for name, text in (more or {}).items() if name in _MORE})
    if claim.epoch:
        files[run.claim.name] = dumps(KeptClaim(claim))
    if rank_table is not None:
        files["rank_table.json"] = rank_table
    is_there = mine.number > 1 and os.path.lexists(run.root)
    with taken_over(run, mine) as devices:
        attempt = _made(run, manifest, files, is_there)
        try:
            attempt_guard.take_claim(run, claim)
            place_inputs(Store(workdir.store), run, manifest)
            daemon.spawn(manifest, run, workdir, devices)
        except BaseException:
            run.discard(mine.number, mine.token)
            raise
    hashes = {}
    for path in (attempt.worker_config, attempt.rank_table, attempt.run_yaml):
        if path.exists():
            hashes[path.name] = sha256_of(path.read_bytes())
    return {"hashes": hashes, "run_dir": str(run.root)}


def _made(run: RunDir, manifest: Manifest, files: Mapping[str, str], is_there: bool) -> AttemptDir:
    """The tree of the attempt; what fails leaves no trace."""
    mine = manifest.attempt
    try:
        return run.make(
            mine.number,
            mine.token,
            answers=manifest.launch.get("task") == "predict",
            rank_table="rank_table.json" in files,
            files=files,
        )
    except FileExistsError:
        which = f"attempt {mine.number} of run" if is_there else "run"
        raise AgentError(f"{which} {manifest.run_id} exists already", kind="run_exists") from None
    except BaseException:
        if not is_there or run.numbers()[-1:] == [mine.number]:
            run.discard(mine.number, mine.token)
        raise
