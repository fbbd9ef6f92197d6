"""A request is known from the settings and its index: in any process, in any order, whatever was asked before."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.loadtest.locust_process import environment
from tests.unit.loadtest.workloads.conftest import Make

_PROGRAM = """
import hashlib, json
from loadtest.settings import LoadTestSettings
from loadtest.workloads import ServedTokenizer, workload
from stack.configuration.environment import load

asked = workload(load(LoadTestSettings), "m", ServedTokenizer.approximate())
print(json.dumps([hashlib.sha256(json.dumps(asked.request(n).body).encode()).hexdigest() for n in {indices}]))
"""
LENGTHS = {"input_tokens": "lognormal:400,0.5", "output_tokens": "uniform:1-9"}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    lines = ({"timestamp": n, "input_length": 700, "output_length": 3, "hash_ids": [0, n]} for n in range(20))
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def bodies_in_a_process(indices: list[int], **variables: str) -> dict[int, str]:
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM.replace("{indices}", str(indices))],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return dict(zip(indices, json.loads(run.stdout), strict=True))


@pytest.mark.parametrize("name", ["random", "chat", "trace"])
def test_processes_make_the_same_requests(name: str, trace: Path) -> None:
    variables = {f"LOADTEST_{setting.upper()}": value for setting, value in LENGTHS.items()}
    variables |= {"LOADTEST_WORKLOAD": name, "LOADTEST_TRACE_FILE": str(trace), "LOADTEST_SEED": "7"}
    one = bodies_in_a_process(list(range(20)), PYTHONHASHSEED="1", **variables)
    other = bodies_in_a_process(list(range(19, -1, -3)), PYTHONHASHSEED="2", **variables)
    assert len(set(one.values())) == 20
    assert other == {index: one[index] for index in other}


@pytest.mark.parametrize("name", ["random", "chat", "trace"])
def test_another_seed_makes_other_requests(make: Make, name: str, trace: Path) -> None:
    bodies = [
        json.dumps(make(name, trace_file=trace, seed=seed, **LENGTHS).request(5).body) for seed in (0, 0, 1, 2, "3")
    ]
    assert bodies[0] == bodies[1]
    assert len(set(bodies)) == 4
