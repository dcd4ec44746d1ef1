"""`python -m tests.standins FACTS.yaml FOLDER`: an Ascend host made by hand; put FOLDER/bin on the PATH."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.standins.facts import HostFacts
from tests.standins.fakehost import FakeHost

if __name__ == "__main__":
    host = FakeHost(Path(sys.argv[2]), HostFacts.read(Path(sys.argv[1])), Path(sys.argv[2]) / "network")
    print(f"export PATH={host.bin}:$PATH")
