"""Limits of control groups, read from trees as the kernel shows them: v1, v2, both, and inside of namespaces."""

import math
from pathlib import Path

import pytest

from stack.host.cgroup import Limits, limits, limits_of_everything

MIB = 1 << 20
NO_LIMIT_V1 = "9223372036854771712"
STAT = f"anon {MIB}\ninactive_file {100 * MIB}\nactive_file {50 * MIB}\n"
STAT_V1 = f"cache 1\ninactive_file 1\nactive_file 1\ntotal_inactive_file {100 * MIB}\ntotal_active_file {50 * MIB}\n"


class Machine:
    """A made-up /proc/self and what is mounted."""

    def __init__(self, folder: Path) -> None:
        self.process = folder / "proc"
        self.process.mkdir()
        self._folder = folder
        (self.process / "mountinfo").write_text("22 1 0:20 / / rw - ext4 /dev/vda rw\n")
        (self.process / "cgroup").write_text("")

    def mount(self, name: str, kind: str, options: str = "rw", root: str = "/") -> Path:
        point = self._folder / name
        point.mkdir(parents=True)
        with (self.process / "mountinfo").open("a") as file:
            shown = str(point).replace(" ", "\\040")
            file.write(f"30 22 0:28 {root} {shown} rw,nosuid shared:9 - {kind} {kind} {options}\n")
        return point

    def is_in(self, line: str) -> None:
        with (self.process / "cgroup").open("a") as file:
            file.write(line + "\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def group(folder: Path, **files: str) -> None:
    """`memory_max` is the file `memory.max`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text + "\n")


def v2_memory(limit: str, used: int, high: str = "max") -> dict[str, str]:
    return {"memory_max": limit, "memory_high": high, "memory_current": str(used), "memory_stat": STAT}


def v1_memory(limit: str, used: int, hierarchy: str = "1") -> dict[str, str]:
    return {
        "memory_limit_in_bytes": limit,
        "memory_usage_in_bytes": str(used),
        "memory_stat": STAT_V1,
        "memory_use_hierarchy": hierarchy,
    }


def test_v2_counts_page_cache_as_free(machine: Machine) -> None:
    point = machine.mount("cgroup", "cgroup2")
    machine.is_in("0::/user.slice/shell")
    group(point / "user.slice/shell", **v2_memory(str(3000 * MIB), 1150 * MIB), cpu_max="150000 100000")

    assert limits(machine.process) == Limits(3000 * MIB, 2000 * MIB, 1.5)


def test_v2_where_nothing_is_limited(machine: Machine) -> None:
    point = machine.mount("cgroup", "cgroup2")
    machine.is_in("0::/shell")
    group(point / "shell", **v2_memory("max", 1150 * MIB), cpu_max="max 100000")

    assert limits(machine.process) == Limits()


def test_the_smallest_limit_of_all_groups_around_counts_each_for_itself(machine: Machine) -> None:
    point = machine.mount("cgroup", "cgroup2")
    machine.is_in("0::/a/b/c")
    group(point / "a", **v2_memory(str(4000 * MIB), 3950 * MIB), cpu_max="max 100000")
    group(point / "a/b", **v2_memory(str(3000 * MIB), 1150 * MIB), cpu_max="50000 100000")
    group(point / "a/b/c", **v2_memory("max", 150 * MIB), cpu_max="400000 100000")

    assert limits(machine.process) == Limits(3000 * MIB, 200 * MIB, 0.5)


def test_above_memory_high_a_group_only_stands_still(machine: Machine) -> None:
    point = machine.mount("cgroup", "cgroup2")
    machine.is_in("0::/a")
    group(point / "a", **v2_memory(str(4000 * MIB), 150 * MIB, high=str(1000 * MIB)))

    assert limits(machine.process).memory == 1000 * MIB


def test_more_used_than_allowed_leaves_nothing(machine: Machine) -> None:
    point = machine.mount("cgroup", "cgroup2")
    machine.is_in("0::/a")
    group(point / "a", **v2_memory(str(100 * MIB), 1000 * MIB))

    assert limits(machine.process).memory_available == 0


def test_v1_has_a_tree_for_each_controller(machine: Machine) -> None:
    memory = machine.mount("with blank/memory", "cgroup", "rw,memory")
    cpu = machine.mount("cpu,cpuacct", "cgroup", "rw,cpu,cpuacct")
    machine.mount("cpuset", "cgroup", "rw,cpuset")
    machine.is_in("4:memory:/docker/1\n3:cpuset:/x\n2:cpu,cpuacct:/docker")
    group(memory, **v1_memory(NO_LIMIT_V1, 9000 * MIB))
    group(memory / "docker", **v1_memory(NO_LIMIT_V1, 2000 * MIB))
    group(memory / "docker/1", **v1_memory(str(3000 * MIB), 1150 * MIB))
    group(cpu / "docker", cpu_cfs_quota_us="200000", cpu_cfs_period_us="100000")
    group(cpu, cpu_cfs_quota_us="-1", cpu_cfs_period_us="100000")

    assert limits(machine.process) == Limits(3000 * MIB, 2000 * MIB, 2)


def test_a_v1_group_may_leave_those_below_alone(machine: Machine) -> None:
    memory = machine.mount("memory", "cgroup", "rw,memory")
    machine.is_in("4:memory:/a/b")
    group(memory / "a", **v1_memory(str(100 * MIB), 0, hierarchy="0"))
    group(memory / "a/b", **v1_memory(str(3000 * MIB), 0, hierarchy="0"))

    assert limits(machine.process).memory == 3000 * MIB


def test_both_side_by_side_as_systemd_mounts_them(machine: Machine) -> None:
    memory = machine.mount("memory", "cgroup", "rw,memory")
    machine.mount("unified", "cgroup2")
    machine.mount("systemd", "cgroup", "rw,xattr,name=systemd")
    machine.is_in("9:name=systemd:/a\n4:memory:/a\n0::/a")
    group(memory / "a", **v1_memory(str(3000 * MIB), 150 * MIB))

    assert limits(machine.process) == Limits(3000 * MIB, 3000 * MIB, math.inf)


@pytest.mark.parametrize(
    ("root", "path"),
    [
        ("/", "/"),
        ("/docker/1", "/docker/1"),
        ("/docker/1", "/docker/1/"),
        ("/", "/../../other"),
        ("/docker/1", "/else"),
    ],
    ids=["namespace of its own", "bind mount", "bind mount, with a slash", "in a group above", "elsewhere"],
)
def test_a_container_sees_its_own_group_as_the_outermost(machine: Machine, root: str, path: str) -> None:
    point = machine.mount("cgroup", "cgroup2", root=root)
    machine.is_in(f"0::{path}")
    group(point, **v2_memory(str(3000 * MIB), 150 * MIB))

    assert limits(machine.process).memory == 3000 * MIB
    assert limits_of_everything(machine.process).memory == 3000 * MIB


def test_a_shells_own_limit_is_none_of_an_engine_beside_it(machine: Machine) -> None:
    point = machine.mount("cgroup", "cgroup2")
    machine.is_in("0::/user.slice/shell")
    group(point / "user.slice/shell", **v2_memory(str(3000 * MIB), 150 * MIB), cpu_max="100000 100000")

    assert limits_of_everything(machine.process) == Limits()


def test_without_control_groups_nothing_limits(tmp_path: Path) -> None:
    assert limits(Machine(tmp_path).process) == Limits()
    assert limits(tmp_path / "nowhere") == Limits()


def test_this_machine_can_be_asked() -> None:
    found = limits()

    assert 0 <= found.memory_available <= found.memory
    assert found.cpus > 0
