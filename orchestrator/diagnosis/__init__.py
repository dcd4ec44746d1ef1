"""Why a run failed, or hangs: evidence of all ranks and hosts in, the cause with its reasons out; pure."""
