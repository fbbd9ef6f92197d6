"""Ties the life of a process to that of the one that started it, which may be killed before it can end its children."""

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """In the child: SIGTERM when the process `parent` ends. Does not return where that has already happened.

    The signal comes when the thread that started this process ends; that has to be one that stays.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the call, and no signal will come
        os._exit(1)
