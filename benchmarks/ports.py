"""Free ports for the servers of one run."""

import os
import socket
from collections.abc import Iterator

# Below the range from which the kernel picks ports by itself, above the one from which Mooncake does.
RANGE = range(21000, 32000)
STEP = 16  # a server may take the ports after its own too, one for each rank


def free_ports() -> Iterator[int]:
    """Each is free on every address when it is yielded, and yielded once."""
    for port in range(RANGE.start + os.getpid() % 5000, RANGE.stop, STEP):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        yield port
