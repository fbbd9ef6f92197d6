"""End-to-end tests of the Helm chart on a real cluster of two nodes, which this machine builds and runs itself.

Usage: python -m tests.k8s [--limit SECONDS] [pytest's arguments]     (`make test-k8s`)
Exit status: pytest's; 1 with one line when this machine cannot build or run the cluster; 124 after the limit.
"""

import argparse
import os
import signal
import subprocess
import sys
import time

from stack.configuration import env_file
from stack.configuration.environment import load_or_exit
from stack.configuration.settings import REPOSITORY, StackSettings
from stack.installation.system_libraries import MissingLibraryError
from tests.k8s import packages
from tests.k8s.cluster import binaries, images
from tests.k8s.cluster.binaries import ClusterError

LIMIT_S = 2700.0
CLEAN_UP_S = 120.0
TIMED_OUT = 124


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.k8s", description="pytest on a cluster of this machine")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds for the tests, without any build")
    arguments, for_pytest = parser.parse_known_args()
    env_file.apply_or_exit()
    cache = (load_or_exit(StackSettings).stack_dir / "kubernetes").resolve()
    cache.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    try:
        programs = binaries.prepare(cache)
        print(f"kubernetes: {binaries.VERSION} is there ({time.monotonic() - started:.0f} s)", flush=True)
        packages.validators(cache)
        built = images.build()
    except (ClusterError, MissingLibraryError, subprocess.SubprocessError) as error:
        print(f"test-k8s: {error}", file=sys.stderr)
        return 1
    print(f"kubernetes: images are there ({time.monotonic() - started:.0f} s)", flush=True)
    told = {"K8S_CACHE": str(cache), "K8S_PROGRAMS": str(programs), "K8S_IMAGES": " ".join(built)}
    # The cluster's addresses are those of a network namespace of its own, which ends with pytest.
    pytest = ["unshare", "--net", sys.executable, "-m", "pytest", "tests/k8s", *for_pytest]
    return _within(arguments.limit, pytest, {**os.environ, **told})


def _within(limit_s: float, command: list[str], environment: dict[str, str]) -> int:
    # A script's background job ignores it, and pytest would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment)
    try:
        return process.wait(limit_s)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as why:
        process.send_signal(signal.SIGINT)  # pytest then still takes the cluster down
        try:
            process.wait(CLEAN_UP_S)
        except subprocess.TimeoutExpired:
            process.kill()
        print(
            f"test-k8s: ended after {limit_s:.0f} s" if isinstance(why, subprocess.TimeoutExpired) else "", flush=True
        )
        return TIMED_OUT


if __name__ == "__main__":
    sys.exit(main())
