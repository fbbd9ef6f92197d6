"""RDMA tests without an RDMA card: pytest in a QEMU guest whose kernel has a software RDMA device (soft-RoCE).

Usage: python -m tests.rdma [--limit SECONDS] [pytest's arguments]     (`make test-rdma`)
Exit status: pytest's; 1 with one line when this machine cannot build or run the guest.
"""

import argparse
import shlex
import subprocess
import sys
import time

from stack.configuration import env_file
from stack.configuration.environment import load_or_exit
from stack.configuration.settings import REPOSITORY, StackSettings
from stack.installation.system_libraries import MissingLibraryError
from tests.rdma.guest.image import GuestError, prepare
from tests.rdma.guest.machine import run, saved_state

LIMIT_S = 900.0
INSIDE = "tests/rdma/inside"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.rdma", description="pytest in a guest with an RDMA device")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds for the tests, without the guest's build")
    arguments, for_pytest = parser.parse_known_args()
    env_file.apply_or_exit()
    cache = load_or_exit(StackSettings).stack_dir / "guest"
    cache.mkdir(parents=True, exist_ok=True)
    pytest = f"python3 -m pytest -c {INSIDE}/pytest.ini --rootdir /repository -p no:cacheprovider"
    started = time.monotonic()
    try:
        image = prepare(cache.resolve())
        state = saved_state(image)
        versions = (image / "versions").read_text().strip()
        print(f"guest: {versions}, ready ({time.monotonic() - started:.0f} s)", flush=True)
        return run(image, state, REPOSITORY, f"exec {pytest} {shlex.join(for_pytest)}\n", arguments.limit)
    except (GuestError, MissingLibraryError, subprocess.TimeoutExpired) as error:
        print(f"test-rdma: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
