"""`orchestrate chaos` on a real run of local hosts."""

from __future__ import annotations

import json

from orchestrator.testing.local_cluster import Cluster


def test_a_frozen_rank_goes_on_and_a_killed_one_is_named(local: Cluster) -> None:
    with local.launching(local.job(local.sleep)) as launch:
        local.wait_until_running()
        run = local.controls()[-1].run_id
        asked = local.run("chaos", run, "--kind", "kill", "--rank", "2")
        assert asked.returncode == 2
        assert asked.stdout.startswith(
            "would kill rank 2 on host2\nExpect: within seconds the run has failed"
        )
        assert asked.stderr == "orchestrate: nothing was done (--yes does it)\n"
        frozen = local.run("chaos", run, "--kind", "freeze", "--host", "host1", "--for", "1s", "--yes")
        assert frozen.returncode == 0, frozen.stderr
        first, expect, look = frozen.stdout.splitlines()
        assert first.startswith("freeze rank 0 on host1: done (pid ")
        what = "rank 0 stands still for 1 s, then it goes on. A rank that stands still ends no run."
        assert expect == f"Expect: {what}"
        assert look == f"Look: orchestrate status {run}"
        both = local.run("chaos", run, "--kind", "kill", "--host", "host1", "--rank", "0", "--yes")
        assert both.returncode == 2 and "a rank and a host are two places" in both.stderr
        assert set(local.states().values()) == {"running"}
        done = local.run("chaos", run, "--kind", "kill", "--rank", "2", "--yes", "--json")
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert (said["host"], said["rank"], said["done"], said["kind"]) == ("host2", 2, True, "kill")
        out, _ = launch.communicate(timeout=120)
    assert launch.returncode == 1
    assert "Cause: rank 2 on host2 was killed by signal 9" in out
    ended = local.run("chaos", run, "--kind", "kill", "--yes")
    assert ended.returncode == 2 and "has ended (failed)" in ended.stderr
