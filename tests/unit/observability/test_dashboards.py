"""The dashboards' JSON: made from the code, readable with Grafana's own types, and found by Grafana where it lies."""

import json
import re
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from observability.dashboards.__main__ import FOLDER, as_json, dashboards

NAMES = ("requests.json", "transfers.json", "instances.json", "store.json")
PROVISIONING = FOLDER.parent / "provisioning"


def content(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / name).read_text())
    return found


def panels(name: str) -> list[dict[str, Any]]:
    return [panel for panel in content(name)["panels"] if panel["type"] != "row"]


def test_the_files_are_what_the_code_makes() -> None:
    made = {name: as_json(dashboard) for name, dashboard in dashboards().items()}
    lying = {file.name: file.read_text() for file in FOLDER.glob("*.json")}
    assert lying == made, "run `python -m observability.dashboards`"
    assert set(made) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_grafanas_types_know_every_field(name: str) -> None:
    """What they do not know would be lost on the way."""
    read = Dashboard.from_json(content(name))
    assert json.loads(JSONEncoder().encode(read)) == content(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_asks_the_chosen_prometheus_something(name: str) -> None:
    assert [variable["name"] for variable in content(name)["templating"]["list"]] == ["datasource"]
    for panel in panels(name):
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"]
        ids = [target["refId"] for target in panel["targets"]]
        assert ids == sorted(set(ids)), panel["title"]
        assert all(target["expr"] for target in panel["targets"])


@pytest.mark.parametrize("name", NAMES)
def test_panels_have_names_and_places_of_their_own(name: str) -> None:
    places = [tuple(panel["gridPos"][side] for side in "xy") for panel in content(name)["panels"]]
    assert len(set(places)) == len(places)
    assert max(panel["gridPos"]["x"] + panel["gridPos"]["w"] for panel in content(name)["panels"]) <= 24
    titles = [(panel["type"], panel["title"]) for panel in panels(name)]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("name", NAMES)
def test_a_window_is_always_grafanas(name: str) -> None:
    """One that is written down is empty where somebody scrapes less often."""
    windows = re.findall(r"\[([^\]]+)\]", " ".join(t["expr"] for panel in panels(name) for t in panel["targets"]))
    assert set(windows) <= {"$__rate_interval"}


def test_grafana_finds_the_dashboards_and_what_they_ask() -> None:
    sources = yaml.safe_load((PROVISIONING / "datasources/datasources.yml").read_text())["datasources"]
    assert {source["type"]: source["url"] for source in sources} == {
        "prometheus": "http://prometheus:9090",
        "tempo": "http://tempo:3200",
    }
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards/dashboards.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/etc/pd-stack/dashboards"
