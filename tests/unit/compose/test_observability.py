"""What compose.observability.yaml adds is as confined as the stack itself, and where the rest of it expects it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack.configuration.settings import OBSERVABILITY, REPOSITORY, StackSettings
from tests.unit.compose.test_compose_files import SERVICES, load

FILE = "compose.observability.yaml"
FOLDER = REPOSITORY / "observability"
# As the images bring them; none is root.
USERS = {"prometheus": "65534:65534", "grafana": "472:0", "tempo": "10001:10001", "collector": "10001:10001"}
WITHOUT_A_SHELL = {"tempo", "collector"}


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = load(FILE)["services"][name]
    return found


def test_what_is_added() -> None:
    assert set(load(FILE)["services"]) - set(SERVICES) == set(OBSERVABILITY)


@pytest.mark.parametrize("name", OBSERVABILITY)
def test_every_service_is_confined_and_bounded(name: str) -> None:
    found = service(name)
    assert found["user"] == USERS[name]
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & set(found)
    assert found["init"] is True
    assert found["mem_limit"]
    assert found["pids_limit"]
    assert found["stop_grace_period"]
    assert found["restart"] == "unless-stopped"
    assert found["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert name in WITHOUT_A_SHELL or "healthcheck" in found


@pytest.mark.parametrize("name", OBSERVABILITY)
def test_every_image_is_named_by_tag_and_digest(name: str) -> None:
    assert re.fullmatch(r"[a-z]+/[a-z-]+:v?\d+\.\d+\.\d+@sha256:[0-9a-f]{64}", service(name)["image"])


def test_ports_are_open_on_loopback_only() -> None:
    published = {name: service(name)["ports"] for name in OBSERVABILITY if "ports" in service(name)}
    defaults = StackSettings()
    assert published == {
        name: [{"host_ip": "127.0.0.1", "published": f"${{{name.upper()}_PORT:-{port}}}", "target": port}]
        for name, port in (("prometheus", defaults.prometheus_port), ("grafana", defaults.grafana_port))
    }


def test_only_who_has_to_ask_the_instances_is_on_their_network() -> None:
    networks = {name: set(service(name)["networks"]) for name in OBSERVABILITY}
    assert {name for name, joined in networks.items() if "inside" in joined} == {"prometheus", "collector"}
    assert {name for name, joined in networks.items() if "outside" in joined} == {"prometheus", "grafana"}
    assert load(FILE)["networks"] == {"observers": {"internal": True}}


@pytest.mark.parametrize("name", OBSERVABILITY)
def test_files_of_the_repository_are_there_and_only_read(name: str) -> None:
    binds = [volume for volume in service(name)["volumes"] if isinstance(volume, dict)]
    assert all(bind["read_only"] is True and (REPOSITORY / bind["source"]).exists() for bind in binds)
    assert all(Path(bind["source"]).parts[0] == "observability" for bind in binds)
    assert binds


def test_grafana_has_no_account_and_asks_nobody_outside() -> None:
    environment = service("grafana")["environment"]
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"
    assert environment["GF_PLUGINS_PREINSTALL_DISABLED"] == "true"
    assert environment["GF_ANALYTICS_REPORTING_ENABLED"] == "false"


def test_names_in_the_files_are_those_of_services() -> None:
    named = set()
    for file in ("prometheus.yml", "collector.yml", "tempo.yml", "grafana/provisioning/datasources/datasources.yml"):
        yaml.safe_load((FOLDER / file).read_text())
        named |= set(re.findall(r"\b([a-z]+):\d{4}\b", (FOLDER / file).read_text()))
    assert named == {"proxy", "etcd", "localhost", *OBSERVABILITY}
