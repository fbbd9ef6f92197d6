"""The owner of a KV store whose masters stand by for each other: python -m stack.store.owner MASTER COMMAND...

Becomes Mooncake's COMMAND once somebody leads. Mooncake's own program tries for 2 s and ends; masters that have just
started take longer to choose.
"""

import os
import sys
import time

from stack.store import cluster

BETWEEN_LOOKS_S = 0.2


def main() -> None:
    master, *command = sys.argv[1:]
    while not cluster.has_leader(master):
        time.sleep(BETWEEN_LOOKS_S)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
