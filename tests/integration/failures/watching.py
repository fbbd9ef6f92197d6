"""A Prometheus of the tests' own: the stack's configuration and rules, with every time in them made shorter.

A rule's windows, its `for` and the ages that it waits for are minutes; here they are seconds, put in their place in a
copy of the files. `observability/rules/rules_test.yml` walks through the real ones in promtool's time.
"""

import json
import math
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from observability.prometheus import FOLDER, command, configuration
from stack.configuration.settings import StackSettings
from tests.real_stack import answers, wait_until

SCRAPE_S = 2  # a busy server answers a scrape within that
WINDOW_S = 12
LOOK_BACK_S = 30  # an alert may fire and end between two looks
DASHBOARDS = FOLDER / "grafana" / "dashboards"
RULES = ("recording.yml", "alerts.yml")
START_LIMIT_S = 30.0
SHOWN_LIMIT_S = 60.0  # until a fault is in a window's rate, on a busy machine

Sample = dict[str, Any]  # metric: its labels; value: [time, text]


@dataclass(frozen=True)
class Watch:
    """A running Prometheus."""

    url: str

    def query(self, expression: str) -> list[Sample]:
        """The samples of an instant query, now. Raises: urllib.error.HTTPError: Prometheus cannot read it."""
        answer = self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        result: list[Sample] = answer["result"]
        return result

    def fired(self, since: float) -> set[str]:
        """Names of the alerts that were firing at any time after `since`, in Unix seconds, as far as looked."""
        firing = f"max_over_time(timestamp(ALERTS{{alertstate='firing'}})[{LOOK_BACK_S}s:1s])"
        ages = self.query(f"max by (alertname) ({firing})")
        return {each["metric"]["alertname"] for each in ages if float(each["value"][1]) >= since}

    def targets(self) -> dict[str, str]:
        """By the URL of each: its health, `up`, `down` or `unknown`."""
        return {each["scrapeUrl"]: each["health"] for each in self._get("/api/v1/targets")["activeTargets"]}

    def without_data(self, queries: Iterable[tuple[str, str]]) -> list[str]:
        """Of places and their PromQL those that Grafana would show empty, now."""
        return [
            f"{place}: {expression}"
            for place, expression in queries
            if all(math.isnan(float(sample["value"][1])) for sample in self.query(expression))
        ]

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            return json.load(response)["data"]


def panel_queries(*dashboards: str) -> list[tuple[str, str]]:
    """Where each is, and its PromQL with Grafana's own variable filled in."""
    found = []
    for file in (DASHBOARDS / f"{name}.json" for name in dashboards):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel.get("targets", ()):
                expression = target["expr"].replace("$__rate_interval", "5m")
                found.append((f"{file.stem}: {panel['title']}: {target['refId']}", expression))
    return found


def recorded() -> list[str]:
    rules = yaml.safe_load((FOLDER / "rules" / "recording.yml").read_text())
    return [rule["record"] for group in rules["groups"] for rule in group["rules"]]


def alerts() -> set[str]:
    rules = yaml.safe_load((FOLDER / "rules" / "alerts.yml").read_text())
    return {rule["alert"] for group in rules["groups"] for rule in group["rules"]}


def shortened(rules: str) -> str:
    """`max_over_time(…[15m])` stays: it looks for the most that there was."""
    rules = re.sub(r"\[(5m|30m|1h|6h)\]", f"[{WINDOW_S}s]", rules)
    rules = re.sub(r"^( +for:) .*$", r"\1 0s", rules, flags=re.MULTILINE)
    return rules.replace("> 120\n", "> 3\n")


@contextmanager
def watching(settings: StackSettings, folder: Path) -> Iterator[Watch]:
    """Args: settings: of the running stack, with a port for this Prometheus; folder: for its files."""
    (folder / "rules").mkdir()
    for name in RULES:
        (folder / "rules" / name).write_text(shortened((FOLDER / "rules" / name).read_text()))
    text = configuration(settings).replace(f"{FOLDER}/rules/", f"{folder}/rules/").replace(": 15s", f": {SCRAPE_S}s")
    (folder / "prometheus.yml").write_text(text)
    watch = Watch(f"http://127.0.0.1:{settings.prometheus_port}")
    with (folder / "prometheus.log").open("wb") as log:
        words = command(settings, folder / "prometheus.yml")
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(lambda: answers(watch.url + "/-/ready"), START_LIMIT_S, "Prometheus is ready")
        yield watch
    finally:
        process.terminate()
        process.wait(30)
