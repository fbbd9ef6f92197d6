"""The running containers are as locked in as compose.yaml says; seen from the engine and from inside."""

import json
import subprocess
from typing import Any

import pytest

from tests.compose.project import Project

PUBLISHED = {"proxy": "8000/tcp", "loadtest": "8089/tcp"}

pytestmark = pytest.mark.timeout(3000)


def service(container: dict[str, Any]) -> str:
    return str(container["Config"]["Labels"]["com.docker.compose.service"])


def test_containers_have_an_ordinary_user_no_capability_and_a_read_only_root(project: Project) -> None:
    for container in project.inspect():
        host = container["HostConfig"]
        assert container["Config"]["User"] == "10001:10001"
        assert host["CapDrop"] == ["ALL"]
        assert not host["CapAdd"]
        assert not host["Privileged"]
        assert host["ReadonlyRootfs"]
        assert host["Init"]
        assert "no-new-privileges:true" in host["SecurityOpt"]


def test_containers_are_bounded(project: Project) -> None:
    for container in project.inspect():
        host = container["HostConfig"]
        assert host["Memory"] > 0
        assert host["PidsLimit"] > 0
        assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}


def test_only_the_proxy_and_locust_are_published_and_only_on_loopback(project: Project) -> None:
    for container in project.inspect():
        bindings = container["HostConfig"]["PortBindings"] or {}
        assert list(bindings) == ([PUBLISHED[service(container)]] if service(container) in PUBLISHED else [])
        assert {binding["HostIp"] for bound in bindings.values() for binding in bound} <= {"127.0.0.1"}


def test_etcd_and_the_instances_sit_on_a_network_without_a_way_out(project: Project) -> None:
    inside = f"{project.name}_inside"
    assert json.loads(project.docker("network", "inspect", inside))[0]["Internal"]
    for container in project.inspect("etcd", "prefill", "decode"):
        assert list(container["NetworkSettings"]["Networks"]) == [inside]


@pytest.mark.parametrize("name", ["etcd", "prefill", "decode", "proxy", "loadtest", "loadtest-worker"])
def test_a_process_inside_cannot_write_the_root_and_has_no_capability(project: Project, name: str) -> None:
    attempt = "touch /written 2>&1; id -u; grep CapEff /proc/self/status"
    refused, user, capabilities = project.compose("exec", "-T", name, "sh", "-c", attempt).splitlines()
    assert "Read-only file system" in refused
    assert user == "10001"
    assert int(capabilities.split()[1], 16) == 0


def test_the_key_is_readable_for_the_instances_only_and_not_writable(project: Project) -> None:
    attempt = "stat -c %a /key/stack.key; touch /key/other 2>&1 || true"
    mode, refused = project.compose("exec", "-T", "prefill", "sh", "-c", attempt).splitlines()
    assert mode == "600"
    assert "Read-only file system" in refused
    with pytest.raises(subprocess.CalledProcessError):
        project.compose("exec", "-T", "proxy", "test", "-e", "/key")


@pytest.mark.parametrize("name", ["etcd", "prefill", "proxy", "loadtest"])
def test_nothing_that_was_lent_to_the_build_is_in_the_image(project: Project, name: str) -> None:
    image = project.inspect(name)[0]["Image"]
    lent = "find /run/secrets /run/build /run/requirements.lock /wheels -type f -size +0 2>/dev/null || true"
    assert project.docker("run", "--rm", "--user", "0", "--entrypoint", "sh", image, "-c", lent) == ""
