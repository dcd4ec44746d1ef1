"""The contract of supervision held by workers in containers: a chosen part of the very tests that hold it without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.testing.container_host import ContainerHost, containers, runtime_ready, why_not
from tests.agent.test_ending import (  # noqa: F401
    test_a_killed_guardian_ends_the_run_in_order,
    test_a_killed_worker_is_failed_by_its_signal,
    test_both_killed_at_once_the_workers_are_lost,
    test_stop_is_gentle_first,
    test_undo_leaves_nothing,
)
from tests.agent.test_supervision import (  # noqa: F401
    test_a_crash_after_the_work_was_done_is_no_failure,
    test_a_failure_stops_the_others_and_keeps_its_last_lines,
    test_a_worker_that_ignores_sigterm_is_killed_after_the_grace_period,
    test_all_workers_succeed,
    test_env_script,
    test_neither_killed_supervisor_nor_killed_guardian_leaves_workers,
    test_secrets_are_in_no_command_line_and_the_files_are_private,
    test_what_a_worker_writes_by_name_is_in_its_attempt,
)

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", autouse=True)
def runtime() -> Iterator[None]:
    if why_not():
        pytest.skip(why_not())
    with runtime_ready():
        yield


@pytest.fixture
def host(tmp_path: Path) -> Iterator[ContainerHost]:
    host = ContainerHost(tmp_path / "wörk dir's 用户, 2")
    yield host
    host.close()
