"""Errors: one line each, and the exit codes that the command line promises."""

from __future__ import annotations

import pytest

from model.errors import ModelError
from orchestrator.core import errors
from orchestrator.core.errors import (
    AgentError,
    ConfigError,
    HostKeyError,
    HostsFailed,
    OrchestrateError,
    Problem,
    TransportError,
)
from orchestrator.hosts.fleet import error_lines


@pytest.mark.parametrize(
    ("where", "remedy", "text"),
    [
        ("", "", "it broke"),
        ("host1", "", "host1: it broke"),
        ("", "mend it", "it broke (mend it)"),
        ("host1", "mend it", "host1: it broke (mend it)"),
    ],
)
def test_one_line_of_what_where_and_remedy(where: str, remedy: str, text: str) -> None:
    error = OrchestrateError("it broke", where=where, remedy=remedy)
    assert str(error) == text and error.lines() == [text]
    assert str(Problem(where, "it broke", remedy)) == text


def test_what_a_file_says_is_shown_and_not_obeyed() -> None:
    error = OrchestrateError("no type Float\x1b[2J\u202e", where="模型/a\ufeff.ckpt", remedy="save it\x07")
    assert str(error) == "模型/a\\ufeff.ckpt: no type Float\\x1b[2J\\u202e (save it\\x07)"
    assert Problem("", "\x9b").__str__() == "\\x9b"
    assert str(OrchestrateError("x" * 10_000)) == "x" * 1500 + " … (8500 characters more)"
    assert str(ModelError("no key num\ufeff", where="a.yaml")) == "a.yaml: no key num\\ufeff"


def test_all_problems_of_a_file_are_told() -> None:
    error = ConfigError(
        [Problem("job.yaml:3: name", "is missing"), Problem("job.yaml:9: data", "is no map", "fix")]
    )
    assert error.lines() == ["job.yaml:3: name: is missing", "job.yaml:9: data: is no map (fix)"]
    assert str(error) == "job.yaml:3: name: is missing"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("OrchestrateError", 2),
        ("ConfigError", 2),
        ("UsageError", 2),
        ("RunNotFound", 2),
        ("TransportError", 3),
        ("ConnectError", 3),
        ("AuthenticationError", 3),
        ("HostKeyError", 3),
        ("CommandTimeout", 3),
        ("AgentError", 4),
        ("PreflightError", 4),
        ("RunFailed", 1),
        ("CheckpointError", 2),
        ("Interrupted", 5),
    ],
)
def test_exit_codes(name: str, code: int) -> None:
    kind = getattr(errors, name)
    assert kind.exit_code == code and issubclass(kind, OrchestrateError)
    assert name in errors.__all__


def test_several_hosts_have_the_gravest_code_and_equal_texts_once() -> None:
    error = HostsFailed(
        {
            "a": AgentError("no space", where="a"),
            "b": TransportError("refused", where="b"),
            "c": AgentError("no space", where="c"),
        }
    )
    assert error.exit_code == 3
    assert "a" in error.lines()[0] and "c" in error.lines()[0] and len(error.lines()) == 2


def test_the_kind_of_a_refusal_is_for_code() -> None:
    assert AgentError("x").kind == "error"
    assert AgentError("x", kind="no_run").kind == "no_run"
    assert "no_run" not in str(AgentError("x", kind="no_run"))


def test_every_public_error_is_documented_with_its_code() -> None:
    assert errors.__doc__ is not None
    for name in set(errors.__all__) - {"Problem"}:
        assert name in errors.__doc__, name


def _unknown_key(address: str, port: int = 22) -> HostKeyError:
    return HostKeyError(
        f"the host key of {address} (ssh-ed25519 SHA256:{address}) is unknown",
        remedy=f"ssh-keyscan -p {port} {address} >> known_hosts",
        of_many=(
            "the host keys are unknown",
            "compare them",
            f"; or: ssh-keyscan -p {port} {{}} >> known_hosts",
        ),
        address=address,
    )


def test_the_same_trouble_with_the_keys_of_many_hosts_is_one_line() -> None:
    found = {f"n{n}": _unknown_key(f"10.0.0.{n}") for n in range(1, 13)}
    addresses = " ".join(f"10.0.0.{n}" for n in range(1, 13))
    assert error_lines(HostsFailed(found)) == [
        f"n[1-12]: the host keys are unknown (compare them; or: ssh-keyscan -p 22 {addresses} >> known_hosts)"
    ]
    # One host alone, another port and another trouble keep their own words.
    mixed = {**found, "far": _unknown_key("far.lan", 2222), "away": TransportError("the connection broke")}
    assert error_lines(HostsFailed(mixed))[1:] == [
        "far: the host key of far.lan (ssh-ed25519 SHA256:far.lan) is unknown "
        "(ssh-keyscan -p 2222 far.lan >> known_hosts)",
        "away: the connection broke",
    ]
    hundreds = HostsFailed({f"n{n}": _unknown_key(f"10.0.0.{n}") for n in range(200)})
    assert error_lines(hundreds) == ["n[0-199]: the host keys are unknown (compare them)"]
