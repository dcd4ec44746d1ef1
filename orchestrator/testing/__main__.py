"""`python -m orchestrator.testing FACTS.yaml FOLDER`: a made-up Ascend host; put FOLDER/bin on the PATH."""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.testing.standin_facts import HostFacts
from orchestrator.testing.standin_host import FakeHost

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(str(__doc__))
    host = FakeHost(Path(sys.argv[2]), HostFacts.read(Path(sys.argv[1])), Path(sys.argv[2]) / "network")
    print(f"export PATH={host.bin}:$PATH")
