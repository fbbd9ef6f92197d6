"""values.schema.json of the chart, made of the settings classes and of kubernetes.yaml.

`python -m deploy.values_schema` in the tests' environment writes it; a test compares both.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from deploy.values_schema import variables

CHART = Path(__file__).parent.parent / "chart"
FILE = CHART / "values.schema.json"


def schema() -> dict[str, Any]:
    whole: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("kubernetes.yaml").read_text())
    whole["properties"]["env"] = variables.schema(usage())
    return whole


def usage() -> dict[str, Any]:
    """What becomes of each variable in the chart: its files/variables.yaml."""
    content: dict[str, Any] = yaml.safe_load((CHART / "files" / "variables.yaml").read_text())
    return content


def text() -> str:
    return json.dumps(schema(), indent=2) + "\n"
