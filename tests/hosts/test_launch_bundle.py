"""The bundle of a launch is the JSON that agents of every version read."""

import base64
import json

import pytest

from orchestrator.core.codec import from_json, to_json
from orchestrator.core.record_class import replace
from orchestrator.core.records import Input, Manifest, WorkerSpec
from orchestrator.hosts.launch_bundle import launch_bundle

WORKER = WorkerSpec("rank_0", 0, 0, 0, ("python", "-c", 'print(", \\"worker_config\\": ")'))


@pytest.mark.parametrize("size", [0, 10, 100_000], ids=str)
@pytest.mark.parametrize("table", [None, '{"version": "1.0"}'], ids=["no table", "table"])
def test_a_bundle_is_one_object_of_json(size: int, table: str | None) -> None:
    manifest = Manifest("r1", "job", "h1", 1.0, (WORKER,), hosts=("h1", "h2"))
    config = "a: 'é'\n" + "x" * size
    sent = launch_bundle(manifest, config, table)
    whole = sent if isinstance(sent, bytes) else b"".join(sent)
    assert len(sent) == len(whole)
    expected = {"manifest": to_json(manifest), "worker_config": config, "rank_table": table}
    assert json.loads(whole) == json.loads(json.dumps(expected))
    assert from_json(Manifest, json.loads(whole)["manifest"]) == manifest


def test_each_host_gets_its_own_manifest_whichever_was_sent_before() -> None:
    first = Manifest(
        "r1", "job", "h1", 1.0, (WORKER,), inputs=(Input("code/a.py", "a" * 64),), hosts=("h1", "h2")
    )
    others = [
        replace(first, host="h2"),
        replace(first, inputs=(Input("code/b.py", "b" * 64),)),
        replace(first, hosts=("h1", "h2", "h3")),
        replace(first, inputs=(), hosts=()),
        first,
    ]
    for manifest in (*others, *reversed(others)):
        files = {"key.pem": 'a "key"'} if manifest.host == "h2" else None
        sent = launch_bundle(manifest, "", None, files)
        bundle = json.loads(sent if isinstance(sent, bytes) else b"".join(sent))
        assert from_json(Manifest, bundle["manifest"]) == manifest
        assert bundle.get("files") == files


def test_small_contents_come_in_it() -> None:
    manifest = Manifest("r1", "job", "h1", 1.0, (WORKER,))
    sent = launch_bundle(manifest, "a: 1", None, {"run.yaml": "b: 2"}, {"ab12": b"\0\xff", "cd34": b""})
    assert isinstance(sent, bytes)
    bundle = json.loads(sent)
    assert {name: base64.b64decode(text) for name, text in bundle["contents"].items()} == {
        "ab12": b"\0\xff",
        "cd34": b"",
    }
    assert (bundle["files"], bundle["worker_config"]) == ({"run.yaml": "b: 2"}, "a: 1")
