"""What lines of logs say of who failed; the lines are published ones, word for word."""

from __future__ import annotations

import time

import pytest

from orchestrator.core.log_signatures import Meaning, accused_by, meaning_of, telling_lines, waited_for_by

VICTIMS = [
    "EI0002: A timeout occurs when the Notify register waits for execution. Waiting peer rank: 8; task infor",
    "EI0002: The wait execution of the Notify register times out. Reason: The Notify register has not "
    "received the Notify record from remote rank [8]",
    "EI0006: [PID: 1292363] 2025-04-08-18:07:20.444.436 Getting socket times out. Reason: Remote Rank did",
    "EI0009: Transport init error. Reason: [Create][DestLink]Create Dest error! createLink para:rank[1]",
    "EI0015: Failed to collect cluster information of the communicator based on rootInfo detection.",
    "rtDeviceSynchronize execute failed, wait for compute device to finish failed, runtime result = 107020.",
    "RuntimeError: SuspectRemoteError error occurs when execute, error_code=507057",
    "Enter mindio ttp exit process, which means other ranks occur exception, check other ranks' logs!",
    "[CRITICAL] DISTRIBUTED(9,7f,python):2026-03-10-09:40:20.507.092 [x:1] Kill this process with SIGTERM.",
    "ConnectionResetError: [Errno 104] Connection reset by peer",
    "RuntimeError: connection to rank 8 lost",
    "RuntimeError: lost rank 8",
    "the peer 3 is gone",
]
CULPRITS = [
    "EI0004: Failed to parse the ranktable file /x.json. Reason: it is none",
    "EI0009: Device 3 transport init error. Reason: The network port is down.",
    "RuntimeError: EJ0002: [PID: 38079] 2025-07-15-12:45:31.202.787 The network port is down.",
    "EL0004: [PID: 28794] 2025-08-26-03:58:55.257.127 Failed to allocate memory.",
    "EJ0001: Failed to initialize the HCCP process. Reason: Maybe the last training process is running.",
    "UCEError error occurs when execute, error_code=507053",
    "- Memory not enough:",
    "OSError: [Errno 28] No space left on device",
    "ValueError: the shapes differ",
    "mindspore.common.TypeError: not a tensor",
]
SILENT = [
    "step 8: loss 2.5",
    "peers: 8, rank 3 of 16 is at work, connection to the store is good",
    "the last layer was lost in translation",
    "EE9999: Inner Error!",
    "WARNING: 8 processes are connected; timed out: 0",
    "RuntimeError: it went wrong",
]


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        *((line, Meaning.VICTIM) for line in VICTIMS),
        *((line, Meaning.CULPRIT) for line in CULPRITS),
        *((line, None) for line in SILENT),
    ],
)
def test_what_a_line_says(line: str, meaning: Meaning | None) -> None:
    assert meaning_of([line]) is meaning
    text = "\n".join(["before", line, "behind"] * 2)
    assert meaning_of(telling_lines(text)) is meaning


def test_the_first_error_counts_and_the_programs_own_before_all() -> None:
    assert meaning_of([CULPRITS[3], VICTIMS[0]]) is Meaning.CULPRIT
    assert meaning_of([VICTIMS[0], CULPRITS[3]]) is Meaning.VICTIM
    # A warning of a download, hours before a mistake in the program.
    log = f"{VICTIMS[9]}, tried again\nstep 1\nTraceback (most recent call last):\nIndexError: 7"
    assert meaning_of(telling_lines(log)) is Meaning.CULPRIT


RAISED = "Traceback (most recent call last):"
HANDLED = "During handling of the above exception, another exception occurred:"


@pytest.mark.parametrize(
    ("log", "meaning"),
    [
        # What is raised while the loss of a peer is handled follows from that.
        ((RAISED, VICTIMS[9], "", HANDLED, "", RAISED, CULPRITS[8]), Meaning.VICTIM),
        ((RAISED, "RuntimeError: x", "", HANDLED, "", RAISED, CULPRITS[8]), Meaning.CULPRIT),
        ((RAISED, CULPRITS[8], "", HANDLED, "", RAISED, VICTIMS[9]), Meaning.VICTIM),
        # What Python ignores, at its end say, is no error.
        ((VICTIMS[0], "Exception ignored in: <function x>", RAISED, "TypeError: no"), Meaning.VICTIM),
        (("Exception ignored in: <function x>", RAISED, "TypeError: no"), None),
        (("Exception ignored in: <function x>", RAISED, "TypeError: no", CULPRITS[8]), Meaning.CULPRIT),
        # What may follow from another error gives way to one that does not.
        (("launch failed, error code is 207001", "error code is 507018"), Meaning.CULPRIT),
    ],
)
def test_which_exception_is_the_last_word(log: tuple[str, ...], meaning: Meaning | None) -> None:
    assert meaning_of(log) is meaning
    assert meaning_of(telling_lines("\n".join(log))) is meaning


def test_old_lines_of_a_long_log_say_nothing_of_its_end() -> None:
    log = "\n".join([VICTIMS[9], *(f"step {number}" for number in range(300)), "RuntimeError: overflow"])
    assert telling_lines(log) == ("RuntimeError: overflow",)


def test_who_is_waited_for_and_who_is_missed() -> None:
    assert waited_for_by([*VICTIMS, *SILENT]) == (8,)
    line = "The node: 3 is timed out. It may exit with exception, please check this node's log."
    assert accused_by([line, "Node 12 is the first one timed out, please check its log."]) == (3, 12)
    assert accused_by(["The node: scheduler is timed out.", *VICTIMS, *SILENT]) == ()
    assert meaning_of([line]) is Meaning.VICTIM


def test_evidence_is_small_whatever_is_in_the_log() -> None:
    log = "\n".join(VICTIMS * 100 + ["EI0002: " + "x" * 60_000, "peer " * 10_000])
    began = time.perf_counter()
    found = telling_lines(log)
    assert time.perf_counter() - began < 1.0
    assert len(found) <= 9 and max(map(len, found)) <= 400


def test_what_a_lying_host_says_is_judged_in_no_time() -> None:
    lines = ["EI0009: " * 200_000, "peer " * 200_000, "Error." * 200_000] * 100
    began = time.perf_counter()
    assert meaning_of(lines) is Meaning.VICTIM and waited_for_by(lines) == accused_by(lines) == ()
    assert time.perf_counter() - began < 1.0
