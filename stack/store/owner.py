"""The owner of a KV store with a disk, or with several masters: python -m stack.store.owner MASTER COMMAND...

Becomes Mooncake's COMMAND once somebody leads. Mooncake's own program tries for 2 s and ends; masters that have just
started take longer to choose.

One with files on its disk that starts again at once would tell of them while the master still counts the one before it,
and lose them when the master, 10 s later, forgets that one. So it waits until then.
"""

import os
import sys
import time
from pathlib import Path

from stack.store import cluster

BETWEEN_LOOKS_S = 0.2
FORGOTTEN_S = 12.0  # Mooncake's default is 10
FOLDER = "MOONCAKE_OFFLOAD_FILE_STORAGE_PATH"


def main() -> None:
    master, *command = sys.argv[1:]
    while not cluster.has_leader(master):
        time.sleep(BETWEEN_LOOKS_S)
    if (folder := os.environ.get(FOLDER)) and any(Path(folder).iterdir()):
        time.sleep(FORGOTTEN_S)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
