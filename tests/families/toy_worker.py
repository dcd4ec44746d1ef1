"""`python -m tests.families.toy_worker VERB …`: a worker of a package that has the toy among its families."""

from __future__ import annotations

import sys

from model.__main__ import main
from model.network.build import NETWORKS
from orchestrator.families.registry import register
from tests.families.toy import ToyConfig
from tests.families.toy_network import ToyNetwork

if __name__ == "__main__":
    register(ToyConfig)
    NETWORKS["toy"] = ToyNetwork
    sys.exit(main())
