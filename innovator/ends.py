"""How a process ends: each way that its user can meet has an exit code, and a sentence instead of a traceback."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from innovator.say import complain
from innovator.train.loop import REQUEUE

BAD_INPUT, DISK_FULL, INTERRUPTED = 2, 3, 130
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def ending() -> Iterator[None]:
    """End with exit code 2 for wrong input, 3 for a full disk, 130 for Ctrl-C, 75 for SIGTERM."""
    before = signal.signal(signal.SIGTERM, _requeue)
    try:
        yield
    except ValueError as error:
        complain(str(error))
        sys.exit(BAD_INPUT)
    except OSError as error:
        if error.errno not in FULL:
            raise
        complain("the disk is full; nothing half-written has a name. Make room and give the same command again")
        sys.exit(DISK_FULL)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, before)


def _requeue(number: int, frame: FrameType | None) -> None:
    """Outside training there is nothing to save: what is half made is made again."""
    raise SystemExit(REQUEUE)
