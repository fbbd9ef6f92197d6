"""Writes the dashboards that Grafana loads: python -m observability.dashboards"""

from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from observability.dashboards.instances import instances
from observability.dashboards.requests import requests
from observability.dashboards.store import store
from observability.dashboards.transfers import transfers

FOLDER = Path(__file__).resolve().parent.parent / "grafana" / "dashboards"


def dashboards() -> dict[str, Dashboard]:
    """By the name of their file."""
    return {
        "requests.json": requests(),
        "transfers.json": transfers(),
        "instances.json": instances(),
        "store.json": store(),
    }


def as_json(dashboard: Dashboard) -> str:
    return JSONEncoder(sort_keys=True, indent=1).encode(dashboard) + "\n"


if __name__ == "__main__":
    for name, dashboard in dashboards().items():
        (FOLDER / name).write_text(as_json(dashboard))
        print(FOLDER / name)
