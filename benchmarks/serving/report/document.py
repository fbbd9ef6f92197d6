"""The results of a comparison as one JSON document, put together from what lies on disk, and its three files.

`measurements` has a row for each run and kind of requests; `servers` the vLLM command lines of each side.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import program, results
from benchmarks.serving.measured import MeasuredRuns
from benchmarks.serving.plan import EVERY_SIDE, Plan
from benchmarks.serving.report import page
from benchmarks.serving.report.charts import charts
from benchmarks.serving.report.sections import as_html, as_markdown
from benchmarks.tables import Row
from benchmarks.whole_stack.run_folders import server_versions
from benchmarks.whole_stack.stack_side import NICENESS
from loadtest.runs.manifest import Manifest
from stack.host import machine

TITLE = "Disaggregated against aggregated serving"
SERVERS = "servers.json"
_PACKAGES = re.compile(r"locust|gevent|geventhttpclient|numpy|plotly", re.IGNORECASE)


class Documents:
    """`name`: of the files in `folder`. `work`: where the plan's measurements lie."""

    def __init__(self, folder: Path, name: str, work: Path, plan: Plan, commit: str) -> None:
        self._folder, self._name, self._work, self._plan = folder, name, work, plan
        self._machine, self._versions = machine.hardware(), machine.versions(commit, _PACKAGES)

    @property
    def page_file(self) -> Path:
        return self._folder / f"{self._name}.md"

    def write(self, started: str, ended: str) -> None:
        document = self.document(started, ended)
        self._folder.mkdir(parents=True, exist_ok=True)
        lead, sections = page.lead(document), page.sections(document)
        results.replace(self._folder / document["raw_file"], results.dump(document))
        results.replace(self._folder / document["html_file"], as_html(TITLE, lead, sections, charts(document)))
        results.replace(self.page_file, as_markdown(TITLE, lead, sections))

    def document(self, started: str, ended: str) -> dict[str, Any]:
        runs = MeasuredRuns(self._work)
        # Also what an earlier command had measured, e.g. the baseline when only a control was asked for now.
        plan = replace(self._plan, sides=EVERY_SIDE, repeats=max(self._plan.repeats, runs.repeats()))
        measurements = [measurement for measurement in plan.measurements() if runs.run(measurement)]
        rows = [row for measurement in measurements for row in runs.rows(measurement)]
        manifests = list(runs.manifests(measurements))
        servers = read_servers(self._work)
        return {
            **program.about("benchmarks.serving", TITLE),
            "started": started,
            "ended": ended,
            "raw_file": f"{self._name}.json",
            "html_file": f"{self._name}.html",
            "machine": self._machine,
            "versions": {**self._versions, **server_versions([manifest for _, manifest in manifests])},
            "conditions": _conditions(plan, manifests, rows, servers),
            "plan": plan.document(),
            "servers": servers,
            "measurements": rows,
        }


def add_servers(work: Path, side: str, lines: list[list[str]]) -> None:
    results.replace(work / SERVERS, json.dumps({**read_servers(work), side: lines}, indent=1) + "\n")


def read_servers(work: Path) -> dict[str, list[list[str]]]:
    file = work / SERVERS
    return dict(json.loads(file.read_text())) if file.exists() else {}


def _conditions(
    plan: Plan, manifests: list[tuple[str, Manifest]], rows: list[Row], servers: Mapping[str, list[list[str]]]
) -> Mapping[str, str]:
    """What both sides have in common, and where they differ each side's own; what ran, not what was asked for."""
    roles = {side: instances(manifest, servers.get(side, [])) for side, manifest in manifests}
    models = {model for _, manifest in manifests for model in manifest.models}
    transports = {transport for row in rows for transport in row["transports"]}
    commits = {manifest.versions.get("commit", "") for _, manifest in manifests}
    return {
        "model": ", ".join(sorted(models)),
        "instances": "; ".join(f"{side}: {told}" for side, told in roles.items()),
        "KV cache went over": ", ".join(sorted(transports)) or "nothing",
        "SLO of goodput": str(plan.slo),
        "a point": f"{plan.seconds:g} s after {plan.warmup:g} s of warm-up, {plan.repeats} × a side, seed {plan.seed}",
        "priority": f"the stack at nice {NICENESS}, the load generator at 0 (processes)",
        "the stack's variables": ", ".join(f"{k}={v}" for k, v in plan.variables.items()) or "all defaults",
        **({"commits of the runs": ", ".join(sorted(commits))} if len(commits) > 1 else {}),
    }


def instances(manifest: Manifest, servers: Sequence[Sequence[str]]) -> str:
    """`1 decode, 1 prefill`. A router of others' names none; then `servers`, a command line each, are counted."""
    if not manifest.instances:
        return f"{len(servers)} servers"
    counts: dict[str, int] = {}
    for instance in manifest.instances:
        role = str(instance.get("role", "unknown"))
        counts[role] = counts.get(role, 0) + 1
    return ", ".join(f"{number} {role}" for role, number in sorted(counts.items()))
