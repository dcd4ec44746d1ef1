"""Rules about rank ids: every number from 0 once, servers one after the other."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.config.yaml_messages import show
from orchestrator.core.number_ranges import fold_numbers
from orchestrator.rank_table.findings import Broken, Rule, Severity
from orchestrator.rank_table.table import DeviceView, TableView

__all__ = ["RANK_RULES"]


def _form(view: TableView) -> Iterator[Broken]:
    for device in view.devices:
        if device.rank is None:
            text = device.data.rank_id
            yield Broken(f"{device.path}.rank_id", f"{show(text)} is no rank", (text,))


def _twice(view: TableView) -> Iterator[Broken]:
    first: dict[int, DeviceView] = {}
    for device in view.devices:
        if device.rank is None:
            continue
        other = first.setdefault(device.rank, device)
        if other is not device:
            what = f"{device.rank} is the rank of {other.name} already ({other.path})"
            yield Broken(f"{device.path}.rank_id", what, (device.data.rank_id,))


def _gap(view: TableView) -> Iterator[Broken]:
    """Ranks that are missing from 0 to n-1. Where a rank cannot be read, it may be the one that lacks."""
    count = len(view.devices)
    if len(view.by_rank) < count:
        return
    missing = sorted(set(range(count)) - {device.rank or 0 for device in view.by_rank})
    if missing:
        what = f"{count} devices, but no rank {fold_numbers(missing, ', ', 16)}"
        yield Broken("server_list", what, tuple(str(rank) for rank in missing[:64]))
    for device in view.by_rank:
        if (device.rank or 0) >= count:
            what = f"{device.rank} is too high: {count} devices have ranks 0-{count - 1}"
            yield Broken(f"{device.path}.rank_id", what, (device.data.rank_id,))


def _interleaved(view: TableView) -> Iterator[Broken]:
    """By rank, every server must come once; also where numbers lack or are double, which others tell."""
    ended: set[int] = set()
    told: set[int] = set()
    previous: DeviceView | None = None
    for device in view.by_rank:
        if previous is not None and device.server is not previous.server:
            ended.add(previous.server.index)
            if device.server.index in ended and device.server.index not in told:
                told.add(device.server.index)
                what = (
                    f"rank {device.rank} of server {device.server.data.server_id} comes after rank "
                    f"{previous.rank} of server {previous.server.data.server_id}, between its own"
                )
                yield Broken(f"{device.path}.rank_id", what, (str(previous.rank), str(device.rank)))
        previous = device


def _order(view: TableView) -> Iterator[Broken]:
    previous: DeviceView | None = None
    for device in view.devices:
        if previous is not None and device.rank is not None and device.rank < (previous.rank or 0):
            what = f"rank {device.rank} stands behind rank {previous.rank}: ranks do not ascend in the file"
            yield Broken(f"{device.path}.rank_id", what, (str(previous.rank), str(device.rank)))
            return
        previous = device if device.rank is not None else previous


_AGAIN = "number all devices from 0, server by server; `orchestrate rank-table merge` does"

_GUIDE = "HCCL user guide, rank table configuration: order of ranks"

RANK_RULES = (
    Rule(
        "rank-id-form",
        Severity.ERROR,
        _form,
        'give a number from 0, such as "0"',
        "HCOMM topoinfo_ranktableConcise.cc GetSingleDevice (EI0014)",
    ),
    Rule("duplicate-rank-id", Severity.ERROR, _twice, _AGAIN, "HCOMM config.cc CheckRankListInfo (EI0014)"),
    Rule("rank-id-gap", Severity.ERROR, _gap, _AGAIN, "HCOMM config.cc CheckRankListInfo (EI0014)"),
    Rule("interleaved-ranks", Severity.ERROR, _interleaved, _AGAIN, _GUIDE),
    Rule("rank-order", Severity.WARNING, _order, _AGAIN, _GUIDE),
)
