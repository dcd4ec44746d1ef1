"""The verb that asks Ascend's own tools and reads their files."""

from __future__ import annotations

from orchestrator.agent import tools
from orchestrator.agent.request import Answer, Request

TYPE_CHECKING = False  # without `typing` the agent starts a tenth faster
if TYPE_CHECKING:
    from typing import Iterator

__all__ = ["ask_tools"]


def ask_tools(request: Request) -> Iterator[Answer]:
    """All calls, then all files, as they say it."""
    args = request.args
    answers = tools.ask_tools(args["calls"], timeout=args["tool_timeout"], parallel=args["parallel"])
    yield Answer({"answers": answers, "files": [tools.read_text(path) for path in args["files"]]})
