"""What a host finds of a run that fails or hangs: the frozen dataclasses that its answer is checked against.

Times are of the host's own clock, lines are of strangers. `core.codec` makes them of JSON.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

from typing import Mapping, Optional, Tuple

from orchestrator.core.host_answers import Label, Size
from orchestrator.core.record_class import dataclass, field

__all__ = ["ChipHealth", "FileSystem", "FoundEvidence", "FoundLine"]


@dataclass(frozen=True)
class FoundLine:
    """A line of a log: of which (`worker`, `scheduler`, `plog/debug`, `plog/run`, `kernel`), and its time."""

    text: str
    source: str = "kernel"
    time: Optional[float] = None


@dataclass(frozen=True)
class FileSystem:
    """What is left of the file system that a folder is on, in bytes; `use` says what lies there."""

    use: str
    path: str
    free: Size
    total: Size
    free_inodes: Optional[Size] = None


@dataclass(frozen=True)
class ChipHealth:
    """The lines that `npu-smi info -t health -i N -c C` prints of the chip of a device, or why there are none
    (`failure` as of `host_answers.ToolText`)."""

    device: Size
    lines: Tuple[str, ...] = ()
    failure: str = ""


@dataclass(frozen=True)
class FoundEvidence:
    """Everything that is found on one host.

    `logs` are lines of each worker and of the scheduler, by label; `kernel` those of the kernel since the
    launch. `kills_in_groups` counts kills for want of memory since the launch in the control groups of the
    workers, `kills_on_host` those anywhere; `memory_limit` is that of the groups. `unread` has a line for
    what could not be looked at.
    """

    launched: Optional[float] = None
    boot_id: str = ""
    launched_boot_id: str = ""
    supervisor_lives: bool = False
    guardian_lives: bool = False
    logs: Mapping[Label, Tuple[FoundLine, ...]] = field(default_factory=dict)
    kernel: Tuple[FoundLine, ...] = ()
    kills_in_groups: Optional[Size] = None
    kills_on_host: Optional[Size] = None
    memory_limit: Optional[Size] = None
    disks: Tuple[FileSystem, ...] = ()
    chips: Tuple[ChipHealth, ...] = ()
    unread: Tuple[str, ...] = ()
