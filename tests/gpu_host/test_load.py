"""Two minutes of load, as `make load` makes it; and what the instances needed meanwhile."""

import json

import pytest

from tests.compose.project import Project

USERS = ("--users", "10", "--spawn-rate", "2", "--run-time", "2m")
LOAD_LIMIT_S = 300
MEMORY = "cat /sys/fs/cgroup/memory.peak /sys/fs/cgroup/memory.max; du -sm /tmp /dev/shm | cut -f 1"

pytestmark = pytest.mark.timeout(3000)


def test_two_minutes_of_load_without_an_error_and_within_every_limit(project: Project) -> None:
    locust = ("python", "-m", "loadtest", "--headless", *USERS, "--only-summary", "--json")
    printed = project.compose(
        "exec", "-T", "loadtest", *locust, limit_s=LOAD_LIMIT_S
    )  # a failed request is exit code 1
    statistics = {entry["name"]: entry for entry in json.loads(printed)}
    requests = statistics["/v1/completions"]
    for name, entry in sorted(statistics.items()):
        mean = entry["total_response_time"] / max(1, entry["num_requests"])
        print(f"{name}: {entry['num_requests']} values, {mean:.1f} ms on average, {entry['num_failures']} failures")
    assert requests["num_requests"] > 100
    assert requests["num_failures"] == 0
    for name in ("prefill", "decode"):
        peak, limit, scratch, shared = map(int, project.compose("exec", "-T", name, "sh", "-c", MEMORY).split())
        print(f"{name}: {peak >> 20} MiB at most of {limit >> 20}; /tmp {scratch} MiB, /dev/shm {shared} MiB")
        assert peak < 0.9 * limit
        assert scratch < 4096 / 2
    for container in project.inspect():
        assert not container["State"]["OOMKilled"]
