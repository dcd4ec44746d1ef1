"""The prepare phase on one host: directory, files, rank table, locks, supervisor; or nothing at all."""

from __future__ import annotations

from typing import Any, Dict, Optional

from orchestrator.agent import daemon, host_probe
from orchestrator.agent.content_store import Store, sha256_of
from orchestrator.core.codec import dumps
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import Workdir, atomic_write
from orchestrator.core.records import Manifest

__all__ = ["prepare"]


def prepare(
    workdir: Workdir, manifest: Manifest, *, worker_config: str, rank_table: Optional[str]
) -> Dict[str, Any]:
    """Make a run ready to start on this host; what fails leaves no trace.

    Returns the SHA-256 of the files that must be the same on every host, read back from disk.
    """
    if manifest.scheduler is not None and manifest.port is not None:
        # Its own name for it: `address` may be a name that means nothing, or something else, on this host.
        host_probe.require_port(
            manifest.scheduler.env.get("MS_SCHED_HOST") or manifest.address, manifest.port
        )
    run, number = workdir.run(manifest.run_id), manifest.attempt.number
    answers = manifest.launch.get("task") == "predict"
    try:
        attempt = run.make(number, answers=answers, rank_table=rank_table is not None)
    except FileExistsError:
        raise AgentError(f"run {manifest.run_id} exists already", kind="run_exists") from None
    except BaseException:
        run.discard(number)
        raise
    try:
        atomic_write(attempt.manifest, dumps(manifest))
        atomic_write(attempt.worker_config, worker_config)
        if rank_table is not None:
            atomic_write(attempt.rank_table, rank_table)
        store = Store(workdir.store)
        for item in manifest.inputs:
            store.place(item, run.root)
        daemon.spawn(manifest, run, workdir)
    except BaseException:
        run.discard(number)
        raise
    hashes = {}
    for path in (attempt.worker_config, attempt.rank_table):
        if path.exists():
            hashes[path.name] = sha256_of(path.read_bytes())
    return {"hashes": hashes, "run_dir": str(run.root)}
