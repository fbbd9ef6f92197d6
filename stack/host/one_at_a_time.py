"""Lets one process do a thing while others that want to do the same wait, e.g. two `make up` of one clone."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def one_at_a_time(file: Path) -> Iterator[None]:
    """Holds a lock on `file` inside the context and says when it waits. The kernel frees it when a process ends."""
    with file.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process is at work here ({file.name}); waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
