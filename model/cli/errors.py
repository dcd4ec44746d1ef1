"""The one door at which an error becomes a line and an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from model.errors import ModelError
from orchestrator.errors import OrchestrateError

__all__ = ["guarded"]

_INTERRUPTED = 5


def guarded(run: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    """Run a verb; the exit code, after one line on stderr if it failed."""
    try:
        run(args)
    except (ModelError, OrchestrateError) as error:
        return _told(str(error), error.exit_code)
    except OSError as error:
        return _told(f"{error.filename or 'I/O'}: {error.strerror or error}", OrchestrateError.exit_code)
    except KeyboardInterrupt:
        return _told("interrupted", _INTERRUPTED)
    return 0


def _told(text: str, code: int) -> int:
    print(f"error: {' '.join(text.split())}", file=sys.stderr, flush=True)
    return code
