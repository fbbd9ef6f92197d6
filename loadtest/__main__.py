"""Starts Locust with the stack's settings; every Locust option can follow.

Example::

    python -m loadtest                                  # web page on http://127.0.0.1:8089
    python -m loadtest --headless -u 10 -r 2 -t 1m      # 10 users for a minute; exit code 1 if a request failed
    python -m loadtest --headless -u 4 -t 30s --workload chat --input-tokens 1000 --output-tokens 100
"""

import sys
from pathlib import Path

from locust.main import main

from loadtest.settings import LoadTestSettings
from stack.environment import load_or_exit

if __name__ == "__main__":
    load_or_exit(LoadTestSettings)
    sys.argv[1:1] = ["-f", str(Path(__file__).with_name("locustfile.py"))]
    main()
