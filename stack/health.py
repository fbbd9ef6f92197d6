"""Asks services over HTTP whether they are well: python -m stack.health URL, for a container's health check."""

import sys
from http.client import HTTPException

from stack.network.direct_http import open_directly


def answers(url: str, timeout_s: float = 3.0) -> bool:
    """Whether `url` answers with a status below 400."""
    try:
        with open_directly(url, timeout_s):
            return True
    except (OSError, HTTPException, ValueError):  # HTTPException: a stranger there who does not speak HTTP
        return False


if __name__ == "__main__":
    sys.exit(not answers(sys.argv[1], timeout_s=4.0))
