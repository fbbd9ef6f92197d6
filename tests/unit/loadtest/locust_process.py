"""How the tests start the load test as a process of its own."""

import os
import sys
from pathlib import Path

COMMAND = (sys.executable, "-m", "loadtest")
_REPOSITORY = Path(__file__).parents[3]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment with the given settings and no others of the load test."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("LOADTEST_", "LOCUST_"))}
    return {**others, "PYTHONPATH": str(_REPOSITORY), **variables}
