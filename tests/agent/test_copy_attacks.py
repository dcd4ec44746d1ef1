"""Who knocks at a copier: other runs, other attempts, nobody's, liars and drips. Nothing is written."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import ssl
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agent.copy_owner import NotCopied
from orchestrator.agent.copy_stream import Broken, Stream
from orchestrator.agent.copy_tls import Identity
from orchestrator.control.copies import Authority
from orchestrator.core.records import Attempt
from orchestrator.testing.waiting import eventually
from tests.agent.copying import ATTEMPT, LOCAL, RANKS, RUN, Host, free_ports

NAME = "rank_0/m_rank_0-1_10.ckpt"


@pytest.fixture
def authority() -> Authority:
    return Authority(RUN, ATTEMPT)


@pytest.fixture
def hosts(tmp_path: Path, authority: Authority) -> Iterator[tuple[Host, Host]]:
    ports = free_ports()
    pair = Host(tmp_path, "a", authority, ports), Host(tmp_path, "b", authority, ports)
    pair[1].serve()
    yield pair
    for host in pair:
        host.close()


def speak(identity: Identity, keeper: Host) -> ssl.SSLSocket:
    return identity.reach(socket.create_connection((LOCAL, keeper.port), timeout=30), keeper.name)


@contextlib.contextmanager
def speaking(owner: Host, keeper: Host) -> Iterator[Stream]:
    """An owner's own connection, over which the test says what it likes."""
    with contextlib.closing(speak(owner.identity, keeper)) as secured:
        yield Stream(secured)


def offer(**changes: Any) -> dict[str, Any]:
    file = {"name": NAME, "size": 4, "crc32": None, **changes}
    return {"step": 10, "epoch": 1, "files": [file]}


def is_refused(identity: Identity, keeper: Host) -> bool:
    """With TLS 1.3 a client hears only when it reads that its certificate was refused."""
    try:
        with contextlib.closing(speak(identity, keeper)) as secured:
            stream = Stream(secured)
            stream.say({"bye": True})
            stream.hear()
    except (OSError, Broken):
        return True
    return False


def another(authority: Authority, host: Host, tmp_path: Path, **changes: Any) -> Identity:
    """An identity that trusts what `host` trusts, and whose certificate is of this authority."""
    key = tmp_path / "another.pem"
    key.write_text(authority.issue(changes.pop("name", "a")))
    return Identity(dataclasses.replace(host.config, **changes), key)


@pytest.mark.parametrize(
    ("run", "attempt"),
    [("other-1", ATTEMPT), (RUN, Attempt(2, "abcd")), (RUN, Attempt(1, "ef01"))],
    ids=["another run", "another attempt", "another launch"],
)
def test_a_certificate_of_another_run_or_attempt_is_refused(
    hosts: tuple[Host, Host], tmp_path: Path, run: str, attempt: Attempt
) -> None:
    owner, keeper = hosts
    before = keeper.everything()
    assert is_refused(another(Authority(run, attempt), owner, tmp_path), keeper)
    eventually(lambda: keeper.refused, what="the refusal")
    assert keeper.everything() == before
    assert not is_refused(owner.identity, keeper)


def test_the_same_authority_is_not_enough_for_another_attempt(
    hosts: tuple[Host, Host], authority: Authority, tmp_path: Path
) -> None:
    owner, keeper = hosts
    authority._attempt = Attempt(2, "abcd")  # as if it had signed for a later one
    assert is_refused(another(authority, owner, tmp_path), keeper)
    eventually(lambda: any("another host, run or attempt" in text for text in keeper.refused))


def test_a_host_whose_copies_are_kept_elsewhere_is_refused(
    hosts: tuple[Host, Host], authority: Authority, tmp_path: Path
) -> None:
    owner, keeper = hosts
    assert is_refused(another(authority, owner, tmp_path, name="c"), keeper)
    assert is_refused(another(authority, owner, tmp_path, name="b"), keeper)  # itself


def test_no_certificate_is_refused(hosts: tuple[Host, Host]) -> None:
    _, keeper = hosts
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        pytest.raises(OSError),
        socket.create_connection((LOCAL, keeper.port), timeout=30) as plain,
        context.wrap_socket(plain) as secured,
    ):
        secured.sendall(b'{"bye": true}\n')
        assert secured.recv(100) == b""
        raise OSError("the connection was closed")
    eventually(lambda: keeper.refused)


def test_a_plain_client_is_refused_and_writes_nothing(hosts: tuple[Host, Host]) -> None:
    owner, keeper = hosts
    before = keeper.everything()
    with socket.create_connection((LOCAL, keeper.port), timeout=30) as plain:
        plain.sendall(json.dumps(offer()).encode() + b"\n")
        heard = b"none"
        with contextlib.suppress(OSError):
            while heard:
                heard = plain.recv(4096)
    eventually(lambda: keeper.refused)
    assert keeper.everything() == before
    assert not is_refused(owner.identity, keeper)


def test_an_owner_gives_nothing_to_somebody_elses_port(tmp_path: Path, authority: Authority) -> None:
    """Whoever holds the keeper's port, with a certificate of another attempt or none, gets no byte."""
    ports = free_ports()
    owner, keeper = (Host(tmp_path, name, authority, ports) for name in ("a", "b"))
    owner.save(10)
    impostor = Host(tmp_path / "elsewhere", "b", Authority(RUN, Attempt(2, "abcd")), ports)
    impostor.serve()
    copies = owner.owner()
    step = copies.next_step()
    assert step is not None
    with pytest.raises(NotCopied):
        copies.copy(step)
    assert impostor.copies() == {} and copies.status().step is None
    impostor.close()
    keeper.serve()
    copies.copy(step)
    keeper.close()


@pytest.mark.parametrize(
    "name",
    [
        "../rank_0/m_rank_0-1_10.ckpt",
        "rank_0/../m_rank_0-1_10.ckpt",
        "/rank_0/m_rank_0-1_10.ckpt",
        "rank_0/..",
        "..",
        "",
        "rank_0/.m_rank_0-1_10.ckpt",
        "rank_0/m_rank_0-1_10.ckpt\0",
        "rank_0/m_rank_0-1_10.ckpt.sum",
        "rank_0/rank_1/m_rank_0-1_10.ckpt",
        "rank_0/m_rank_0-1_11.ckpt",  # another step than the offer's
        "rank_2/m_rank_2-1_10.ckpt",  # the keeper's own rank
        "manifest.json",
        7,
        None,
    ],
)
def test_a_name_that_is_no_shard_of_its_owner_is_refused(hosts: tuple[Host, Host], name: Any) -> None:
    owner, keeper = hosts
    before = keeper.everything()
    with speaking(owner, keeper) as stream:
        stream.say(offer(name=name))
        assert "error" in stream.hear()
    assert keeper.everything() == before


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"step": 10, "epoch": 1, "files": []},
        {"step": 10, "epoch": 1, "files": [{"name": NAME, "size": 4}] * 2},
        {"step": 10, "epoch": 1, "files": [{"name": NAME, "size": 4}] * 3},
        {"step": "10", "epoch": 1, "files": [{"name": NAME, "size": 4}]},
        {"step": True, "epoch": 1, "files": [{"name": NAME, "size": 4}]},
        offer(size=-1),
        offer(size=0),
        offer(size=1 << 62),
        offer(size="4"),
        offer(crc32=-1),
        offer(crc32="x"),
    ],
)
def test_an_offer_that_makes_no_sense_is_refused(hosts: tuple[Host, Host], message: dict[str, Any]) -> None:
    owner, keeper = hosts
    before = keeper.everything()
    with speaking(owner, keeper) as stream:
        stream.say(message)
        assert "error" in stream.hear()
    assert keeper.everything() == before


def test_a_size_larger_than_the_disk_is_refused_before_a_byte(hosts: tuple[Host, Host]) -> None:
    owner, keeper = hosts
    with speaking(owner, keeper) as stream:
        stream.say(offer(size=1 << 49))
        assert "no room" in stream.hear()["error"]


@pytest.mark.parametrize("data", [b"abc", b"abcde"], ids=["shorter", "longer"])
def test_a_size_that_lies_leaves_nothing(hosts: tuple[Host, Host], data: bytes) -> None:
    owner, keeper = hosts
    before = keeper.everything()
    with speaking(owner, keeper) as stream:
        stream.say(offer(size=4))
        assert stream.hear() == {"ok": True}
        stream.send(iter([data + sha256(data).hexdigest().encode() + b"\n"]))
        assert "error" in stream.hear()
    assert keeper.everything() == before


def test_bytes_of_another_checksum_leave_nothing(hosts: tuple[Host, Host]) -> None:
    owner, keeper = hosts
    before = keeper.everything()
    for crc32, digest in ((1, sha256(b"abcd").hexdigest()), (None, "0" * 64)):
        with speaking(owner, keeper) as stream:
            stream.say(offer(size=4, crc32=crc32))
            stream.hear()
            stream.send(iter([b"abcd" + digest.encode() + b"\n"]))
            assert "error" in stream.hear()
    assert keeper.everything() == before


def test_a_connection_that_breaks_in_a_file_leaves_nothing_and_the_next_one_is_served(
    hosts: tuple[Host, Host],
) -> None:
    owner, keeper = hosts
    before = keeper.everything()
    with speaking(owner, keeper) as stream:
        stream.say(offer(size=4_000_000))
        stream.hear()
        stream.send(iter([bytes(1000)]))
    eventually(lambda: keeper.refused)
    eventually(lambda: keeper.everything() == before, what="the part to be removed")
    owner.save(10)
    copies = owner.owner()
    step = copies.next_step()
    assert step is not None
    copies.copy(step)


def test_of_one_owner_one_copy_is_taken_at_a_time(hosts: tuple[Host, Host]) -> None:
    owner, keeper = hosts
    with speaking(owner, keeper) as first:
        first.say(offer(size=4))
        assert first.hear() == {"ok": True}
        with speaking(owner, keeper) as second:
            assert "under way" in second.hear()["error"]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_stream_that_drips_is_given_up() -> None:
    """Each byte comes well within the limit for silence, and the file would take weeks."""
    near, far = socket.socketpair()
    clock = Clock()
    stream = Stream(near, clock=clock)
    with near, far, pytest.raises(Broken, match="drips"):
        far.sendall(b"x" * 200)
        for _ in stream.receive(1 << 30):
            far.sendall(b"x")
            clock.now += 20.0
    assert clock.now < 600


def test_a_stream_at_a_poor_pace_is_taken() -> None:
    near, far = socket.socketpair()
    clock = Clock()
    stream = Stream(near, clock=clock)
    with near, far:
        done = 0
        far.sendall(b"x" * (64 << 10))
        for piece in stream.receive(1 << 20):
            done += len(piece)
            clock.now += len(piece) / (60 << 10)
            if done < 1 << 20:
                far.sendall(b"x" * min(len(piece), (1 << 20) - done))
        assert done == 1 << 20


def test_a_line_that_drips_or_does_not_end_is_given_up() -> None:
    near, far = socket.socketpair()
    stream = Stream(near, line_timeout=0.05)
    begun = time.monotonic()
    with near, far:
        with pytest.raises((Broken, OSError)):
            stream.hear()
        far.sendall(b"x" * 70_000)
        with pytest.raises(Broken, match="does not end"):
            Stream(near, line_timeout=60.0).hear()
    assert time.monotonic() - begun < 60


def test_a_handshake_that_does_not_come_is_given_up(hosts: tuple[Host, Host]) -> None:
    owner, _ = hosts
    near, far = socket.socketpair()
    begun = time.monotonic()
    with far, pytest.raises(OSError):
        owner.identity.accept(near, {"b": ()}, timeout=0.2)
    assert time.monotonic() - begun < 30


def test_a_folder_that_is_a_link_is_not_followed(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    owner, keeper = hosts
    outside = tmp_path / "outside"
    outside.mkdir()
    (keeper.run.folder_of(1) / "copies").symlink_to(outside)
    owner.save(10)
    copies = owner.owner()
    step = copies.next_step()
    assert step is not None
    with pytest.raises(NotCopied):
        copies.copy(step)
    assert list(outside.iterdir()) == []
    assert RANKS["a"] == (0, 1)
