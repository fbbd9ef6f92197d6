"""Containers with a GPU are as locked in as the others, whose tests these are; they get no other GPU than they need."""

import pytest

from tests.compose.project import Project
from tests.compose.test_confinement import (
    test_a_process_inside_cannot_write_the_root_and_has_no_capability as test_a_process_inside_cannot_write_the_root,
)
from tests.compose.test_confinement import (
    test_containers_are_bounded,
    test_containers_have_an_ordinary_user_no_capability_and_a_read_only_root,
    test_etcd_and_the_instances_sit_on_a_network_without_a_way_out,
    test_nothing_that_was_lent_to_the_build_is_in_the_image,
    test_only_the_proxy_and_locust_are_published_and_only_on_loopback,
    test_the_key_is_readable_for_the_instances_only_and_not_writable,
)
from tests.gpu_host import gpus
from tests.gpu_host.stacks import DISAGGREGATED, Kind, Stacks

__all__ = [
    "test_a_process_inside_cannot_write_the_root",
    "test_containers_are_bounded",
    "test_containers_have_an_ordinary_user_no_capability_and_a_read_only_root",
    "test_etcd_and_the_instances_sit_on_a_network_without_a_way_out",
    "test_nothing_that_was_lent_to_the_build_is_in_the_image",
    "test_only_the_proxy_and_locust_are_published_and_only_on_loopback",
    "test_the_key_is_readable_for_the_instances_only_and_not_writable",
]

pytestmark = pytest.mark.timeout(3000)


def gpu_files(project: Project, name: str) -> set[str]:
    """The device files of GPUs in a container, e.g. {"nvidia0"}."""
    listed = project.compose("exec", "-T", name, "sh", "-c", "ls /dev").split()
    return {file for file in listed if file.removeprefix("nvidia").isdigit()}


@pytest.mark.parametrize("kind", DISAGGREGATED, ids=str)
def test_an_instance_gets_its_gpu_and_no_other_unless_nvlink_needs_it(stacks: Stacks, kind: Kind) -> None:
    for name, own in (("prefill", kind.prefill_gpu), ("decode", kind.decode_gpu)):
        expected = gpus.indexes() if kind.sees_all_gpus else [own]
        assert gpu_files(stacks[kind], name) == {f"nvidia{gpu}" for gpu in expected}
        visible = stacks[kind].compose("exec", "-T", name, "sh", "-c", "echo $CUDA_VISIBLE_DEVICES").strip()
        assert visible == (own if kind.sees_all_gpus else "")


@pytest.mark.parametrize("name", ["etcd", "processes", "proxy", "loadtest", "loadtest-worker"])
def test_whoever_needs_no_gpu_gets_none(project: Project, name: str) -> None:
    assert gpu_files(project, name) == set()


def test_processes_without_a_network_hold_the_namespace_of_both_instances(project: Project) -> None:
    seen = {
        name: project.compose("exec", "-T", name, "readlink", "/proc/self/ns/pid") for name in ("prefill", "decode")
    }
    seen["processes"] = project.compose("exec", "-T", "processes", "readlink", "/proc/self/ns/pid")
    assert len(set(seen.values())) == 1
    interfaces = project.compose("exec", "-T", "processes", "ls", "/sys/class/net").split()
    assert interfaces == ["lo"]
