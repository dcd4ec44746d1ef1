"""The judge on the corpus of failures: culprit and kind right in all, nobody accused where none is known."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import pytest

from orchestrator.core.ends import End, EndKind
from orchestrator.core.log_signatures import Meaning
from orchestrator.core.states import RankState
from orchestrator.diagnosis.evidence import Case, Cause, Certainty, HostEvidence, LogLine, RankEvidence
from orchestrator.diagnosis.judge import judge
from orchestrator.diagnosis.scene import Scene
from orchestrator.diagnosis.signatures import KINDS
from tests.diagnosis.corpus import Example, read_corpus

EXAMPLES = read_corpus()
KNOWN = [example for example in EXAMPLES if not example.is_unknown]


def named(example: Example) -> str:
    return example.name


def test_the_corpus_is_what_it_must_be() -> None:
    assert len({example.name for example in EXAMPLES}) == len(EXAMPLES)
    first = [example for example in EXAMPLES if not example.is_later]
    assert len(first) >= 60
    assert sum(example.is_published for example in first) >= len(first) / 2
    assert sum(example.victim_first for example in first) >= len(first) / 2
    assert sum(example.is_unknown for example in first) <= 6
    assert any(abs(rank.error) >= 3 for example in first for rank in example.case.ranks)
    assert sum(len(example.case.hosts) > 1 for example in first) >= len(first) / 3


@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_culprit_and_kind_are_right(example: Example) -> None:
    cause = judge(example.case)
    assert example.complaint(cause) == "", cause
    assert cause.kind in KINDS
    assert cause.proofs or cause.kind in ("stopped", "unknown", "hang")
    if cause.culprit is not None:
        assert cause.culprit not in cause.suspects and cause.culprit.rank not in cause.victims


def verdict(cause: Cause) -> tuple[object, ...]:
    return cause.kind, cause.certainty, cause.culprit


def with_ranks(case: Case, change: Callable[[RankEvidence], RankEvidence]) -> Case:
    return dataclasses.replace(case, ranks=tuple(map(change, case.ranks)))


@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_the_order_in_which_ranks_and_hosts_tell_does_not_matter(example: Example) -> None:
    case, found = example.case, verdict(judge(example.case))
    for seed in range(3):
        rng = random.Random(seed)
        hosts = dict(rng.sample(sorted(case.hosts.items()), len(case.hosts)))
        mixed = dataclasses.replace(case, ranks=tuple(rng.sample(case.ranks, len(case.ranks))), hosts=hosts)
        assert verdict(judge(mixed)) == found


@pytest.mark.parametrize("example", KNOWN, ids=named)
def test_a_clock_within_its_error_does_not_change_who_is_named(example: Example) -> None:
    case, found = example.case, judge(example.case)
    for name in case.hosts:
        for sign in (-1, 1):

            def shifted(rank: RankEvidence, host: str = name, by: int = sign) -> RankEvidence:
                if rank.host != host or rank.time is None:
                    return rank
                lines = tuple(
                    line if line.time is None else dataclasses.replace(line, time=line.time + by * rank.error)
                    for line in rank.lines
                )
                return dataclasses.replace(rank, time=rank.time + by * rank.error, lines=lines)

            again = judge(with_ranks(case, shifted))
            assert (again.kind, again.culprit) == (found.kind, found.culprit)


@pytest.mark.parametrize("example", KNOWN, ids=named)
def test_without_what_victims_say_a_sure_culprit_stays(example: Example) -> None:
    found = judge(example.case)
    if found.certainty is not Certainty.SURE:
        return
    victims = {number for number, told in Scene(example.case).told.items() if told.meaning is Meaning.VICTIM}

    def mute(rank: RankEvidence) -> RankEvidence:
        return dataclasses.replace(rank, lines=()) if rank.rank in victims else rank

    assert verdict(judge(with_ranks(example.case, mute)))[::2] == verdict(found)[::2]


NOISE = (
    "step 31: loss 2.125, 3.1 s",
    "sample 9: 'EI0002: A timeout occurs when the Notify register waits. Waiting peer rank: 0'",
    '{"text": "RuntimeError: connection to rank 0 lost", "label": 1}',
    "answer: Cluster Exception Location[IP/ID]:[127.10.0.1/0], ExceptionType:[Stuck Occurred]",
    "the question was: EI0004: Failed to parse the ranktable file?",
    "WARNING: peers: 8, lost packets: 0, no errors so far",
    "[INFO] ME(7:1,MainProcess):2026-03-10-09:40:12.444.000 [mindspore/train/callback/x.py:80] epoch: 1",
    "\x1b[32mSaving checkpoint … done\x1b[0m",
    "数据集加载完成",
)


@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_lines_of_strangers_change_nothing(example: Example) -> None:
    found = verdict(judge(example.case))
    for source in ("worker", "plog/debug"):
        noise = tuple(LogLine(source, text) for text in NOISE)
        for front in (True, False):

            def noisy(
                rank: RankEvidence, lines: tuple[LogLine, ...] = noise, first: bool = front
            ) -> RankEvidence:
                own = rank.lines
                return dataclasses.replace(rank, lines=(*lines, *own) if first else (*own, *lines))

            assert verdict(judge(with_ranks(example.case, noisy))) == found


@pytest.mark.parametrize("example", KNOWN, ids=named)
def test_a_rank_that_claims_what_it_likes_makes_nobody_else_a_sure_culprit(example: Example) -> None:
    """Whatever one more rank prints: it never makes another rank than before the sure cause."""
    found = judge(example.case)
    target = max(rank.rank for rank in example.case.ranks)
    host = example.case.ranks[0].host
    claims = (
        f"EI0002: A timeout occurs when the Notify register waits. Waiting peer rank: {target}; task",
        f"        Cluster Exception Location[IP/ID]:[{host}/0], ExceptionType:[Stuck Occurred]",
        f"[INFO] HCCL(6,python): local rank [{host}/1]: crimer rank [{host}/0] status[LOST]",
        f"The node: {target} is timed out. It may exit with exception, please check this node's log.",
        f'EI0015: No rank can connect. List of unconnected ranks: "[{target},]".',
        f"kernel: Out of memory: Killed process {1000 + target} (python) total-vm:1kB",
    )
    liar = RankEvidence(
        99_999,
        "liar",
        0,
        RankState.STOPPED,
        time=100.0,
        lines=tuple(
            LogLine(source, text) for source in ("worker", "plog/debug", "plog/run") for text in claims
        ),
    )
    again = judge(dataclasses.replace(example.case, ranks=(*example.case.ranks, liar)))
    if again.certainty is Certainty.SURE:
        assert again.culprit == found.culprit


@pytest.mark.parametrize("seed", range(40))
def test_a_healthy_host_is_not_accused_for_one_that_is_gone(seed: int) -> None:
    """Whoever noticed it: by an error of a victim, an exit without a word, a crash; before or after."""
    rng = random.Random(seed)
    words = [
        text
        for example in EXAMPLES
        for rank, told in Scene(example.case).told.items()
        if told.meaning is Meaning.VICTIM and rank >= 0 and told.line is not None
        for text in [told.line.text]
    ]
    gone = [RankEvidence(number, "gone", number, RankState.LOST, None, 100.0, 1.0) for number in (0, 1)]
    ranks = [
        RankEvidence(
            number,
            f"h{number % 3}",
            number,
            rng.choice([RankState.FAILED, RankState.FAILED, RankState.STOPPED]),
            rng.choice(
                [End(EndKind.EXITED, exit_code=1), End(EndKind.SIGNALLED, signal=rng.choice([6, 9, 11, 15]))]
            ),
            rng.uniform(98.5, 170.0),
            1.0,
            lines=(LogLine("worker", rng.choice(words)),) if rng.random() < 0.7 else (),
        )
        for number in range(2, 8)
    ]
    hosts = {"gone": HostEvidence("gone", reachable=False, lost=True)}
    cause = judge(Case((*ranks, *gone), hosts, 8))
    assert cause.culprit is not None and (cause.kind, cause.culprit.host) == ("host_lost", "gone")


LINES = sorted({line.text for example in EXAMPLES for rank in example.case.ranks for line in rank.lines})
HOSTS = [host for example in EXAMPLES for _, host in sorted(example.case.hosts.items())]
ENDS = [rank.end for example in EXAMPLES for rank in example.case.ranks if rank.end is not None]
PLACES = {"127.0.0.1": ("h0", None), "127.10.0.2": ("h1", 1), "10.0.0.2": ("h9", 3), "": ("h0", None)}


def drawn(seed: int) -> Case:
    """Pieces of all cases thrown together, with gaps."""
    rng = random.Random(seed)
    hosts = {f"h{number}": dataclasses.replace(rng.choice(HOSTS), name=f"h{number}") for number in range(3)}
    ranks = []
    for number in rng.sample(range(-1, 12), rng.randint(0, 10)):
        state = rng.choice(list(RankState))
        lines = tuple(
            LogLine(rng.choice(["worker", "plog/debug", "plog/run"]), cut, rng.choice([None, 50.0]))
            for text in rng.sample(LINES, rng.randint(0, 4))
            for cut in [text[: rng.randint(0, len(text))] if rng.random() < 0.2 else text]
        )
        ranks.append(
            RankEvidence(
                number,
                f"h{rng.randint(0, 3)}",
                rng.choice([None, number]),
                state,
                rng.choice(ENDS) if state.is_terminal and rng.random() < 0.9 else None,
                rng.choice([None, 100.0 + rng.random(), 2000.0]),
                rng.choice([0.0, 0.1, 5.0, float("inf")]),
                rng.choice([None, 25315]),
                step=rng.choice([None, 1, 2]),
                lines=lines,
            )
        )
    return Case(tuple(ranks), hosts, rng.randint(0, 12), rng.random() < 0.1, PLACES)


def test_any_evidence_is_judged_and_nobody_is_sure_without_a_word_of_his_own() -> None:
    count = dict.fromkeys(Certainty, 0)
    for seed in range(400):
        case = drawn(seed)
        cause = judge(case)
        count[cause.certainty] += 1
        assert cause.kind in KINDS and (cause.certainty is not Certainty.UNKNOWN or cause.culprit is None)
        if cause.certainty is not Certainty.SURE or cause.culprit is None:
            continue
        assert any(
            proof.host == cause.culprit.host and proof.rank in (None, cause.culprit.rank)
            for proof in cause.proofs
        ), (seed, cause)
        states = {rank.rank: rank.state for rank in case.ranks}
        assert cause.culprit.rank is None or states[cause.culprit.rank] is not RankState.SUCCEEDED, (
            seed,
            cause,
        )
    assert min(count.values()) > 20, count
