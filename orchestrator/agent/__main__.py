"""Entry point of the zipapp: `python agent.pyz WORKDIR` serves one session on stdin and stdout."""

import sys

from orchestrator.agent.request_loop import main

main(sys.argv[1])
