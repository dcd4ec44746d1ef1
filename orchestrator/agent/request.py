"""One request of a session and its answers. Plain classes: `dataclasses` would be a tenth of its start."""

from __future__ import annotations

TYPE_CHECKING = False  # without `typing` the agent starts a tenth faster
if TYPE_CHECKING:
    from typing import Any, Dict, Mapping, Union


__all__ = ["Answer", "Request"]


class Request:
    """One request: the host's workdir, what is asked, and the bytes that came with it, as a file."""

    __slots__ = ("args", "payload", "root")

    def __init__(self, root: str, args: Mapping[str, Any], payload: Any) -> None:
        self.root = root
        self.args = args
        self.payload = payload


class Answer:
    """One answer and the bytes behind it; `more` says that another one follows."""

    __slots__ = ("data", "error", "more", "result")

    def __init__(
        self, result: Any = None, data: Union[bytes, memoryview] = b"", more: bool = False, error: Any = None
    ) -> None:
        self.result = result
        self.data = data
        self.more = more
        self.error = error

    @classmethod
    def refusal(cls, what: str, remedy: str, kind: str) -> Answer:
        return cls(error={"what": what, "remedy": remedy, "kind": kind})

    def header(self) -> Dict[str, Any]:
        if self.error is not None:
            return {"ok": False, "error": self.error}
        return {"ok": True, "result": self.result, "bytes": len(self.data), "more": self.more}
