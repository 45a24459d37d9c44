"""torchrun, ending with the exit code of the processes it started: `python -m innovator.torchrun` takes its options.

torchrun itself ends with 1 whatever they end with, so that a scheduler cannot tell a run that stopped in time from one
that failed.
"""

from __future__ import annotations

import sys

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

SIGNALLED = 128


def run() -> None:
    """What a process ended with by itself counts more than the signals that the others were ended by for it."""
    try:
        main()
    except ChildFailedError as error:
        code = max(failure.exitcode for failure in error.failures.values())
        sys.exit(code if code > 0 else SIGNALLED - code)
    except SignalException as error:
        sys.exit(SIGNALLED + error.sigval)


if __name__ == "__main__":
    run()
