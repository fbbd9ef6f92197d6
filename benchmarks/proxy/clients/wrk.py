"""Requests one after the other on a few connections, from wrk, which is written in C and never what limits a proxy."""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import CannotStart
from benchmarks.proxy.cpus import pinned
from benchmarks.proxy.upstreams.answers import PATH, request_bodies

BODIES = 256
MARGIN_S = 30
SCRIPT = """
local requests, at = {{}}, 0
function init(args)
  for line in io.lines("{bodies}") do
    requests[#requests + 1] = wrk.format("POST", nil, {{["Content-Type"] = "application/json"}}, line)
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('{{"requests": %d, "duration_us": %d, "bytes": %d, "p50_us": %d, "p99_us": %d, "errors": '
    .. '{{"cannot connect": %d, "read failed": %d, "write failed": %d, "HTTP status": %d, "timed out": %d}}}}\\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
"""


@dataclass(frozen=True)
class Result:
    """`requests` are those that were answered with a good status."""

    requests: int
    requests_per_s: float
    bytes_per_request: float
    p50_ms: float
    p99_ms: float
    errors: Counter[str]


def write_script(folder: Path, prompt_bytes: int, tokens: int) -> Path:
    bodies = folder / "bodies.txt"
    bodies.write_bytes(b"\n".join(request_bodies(BODIES, prompt_bytes, tokens, 0)))
    script = folder / "requests.lua"
    script.write_text(SCRIPT.format(bodies=bodies))
    return script


def run(wrk: str, script: Path, port: int, connections: int, seconds: float, cpus: Sequence[int]) -> Result:
    """Raises: CannotStart: wrk has failed."""
    threads = min(len(cpus), connections, 4)
    command = pinned(cpus, wrk, f"-t{threads}", f"-c{connections}", f"-d{round(seconds)}s", "--timeout", "10s")
    command = (*command, "--latency", "-s", str(script), f"http://127.0.0.1:{port}{PATH}")
    result = subprocess.run(
        command, env=dict(os.environ), capture_output=True, text=True, timeout=seconds + MARGIN_S, check=False
    )
    if result.returncode or not result.stdout.endswith("}\n"):
        raise CannotStart(f"wrk ended with status {result.returncode}: {(result.stderr or result.stdout).strip()}")
    return parse(result.stdout.splitlines()[-1])


def parse(line: str) -> Result:
    """Of what the script prints at the end."""
    seen = json.loads(line)
    errors: Counter[str] = +Counter(seen["errors"])
    requests = seen["requests"] - errors["HTTP status"]
    return Result(
        requests,
        requests / (seen["duration_us"] / 1e6),
        seen["bytes"] / requests if requests else 0.0,
        seen["p50_us"] / 1000,
        seen["p99_us"] / 1000,
        errors,
    )
