"""The results of a comparison as one JSON document, put together from what lies on disk, and its page."""

import re
from pathlib import Path

from benchmarks import program
from benchmarks.results import Results
from benchmarks.store.conversations import figures, page
from benchmarks.store.conversations.loads import CHAT, TRACE
from benchmarks.store.conversations.options import Options
from benchmarks.store.conversations.plan import Plan
from benchmarks.whole_stack.run_folders import RunFolders, server_versions
from benchmarks.whole_stack.stack_side import NICENESS
from stack.configuration.settings import StackSettings
from stack.host import machine

TITLES = {CHAT: "chats of several turns", TRACE: "conversations of a trace"}
PACKAGES = re.compile(r"locust|gevent|geventhttpclient|numpy", re.IGNORECASE)


class Documents:
    """The results so far, as often as they are wanted. `work`: where the plan's measurements lie."""

    def __init__(self, options: Options, plan: Plan, users: StackSettings, work: Path, name: str, started: str) -> None:
        self._options, self._plan, self._runs, self._name = options, plan, RunFolders(work), name
        self._versions, load = machine.versions(options.commit, PACKAGES), plan.load
        self._about = {
            **program.about("benchmarks.store.conversations", f"A shared KV store: {TITLES[load.name]}"),
            "started": started,
            "machine": machine.hardware(),
            "load": load.name,
            "kinds": list(load.kinds),
            "conditions": {
                "model": program.shown(users.model_name),
                "instances": f"{users.prefill_replicas} prefill, {users.decode_replicas} decode, started for each side",
                "sent": load.describe(),
                "seed": str(plan.seed),
                "the store's memory": f"{plan.store_bytes >> 20:,} MiB",
                "the model's context": f"{plan.max_model_len:,} tokens",
                "priority": f"the stack at nice {NICENESS}, the load generator at 0",
                "the stack's variables": ", ".join(f"{k}={v}" for k, v in plan.variables.items()) or "all defaults",
            },
        }

    def write(self, ended: str) -> None:
        """Writes nothing when nothing was measured."""
        runs = [run for one in self._plan.measurements() if (run := self._runs.run(one))]
        versions = {**self._versions, **server_versions(run.manifest for run in runs)}
        about = {**self._about, "versions": versions}
        results = Results(self._options.out, self._name, about, page.render)
        for table, rows in figures.tables(self._runs, self._plan).items():
            for row in rows:
                results.add(table, **row)
        results.end(ended)
        if results.page_file.exists():
            print(f"results: {results.page_file}", flush=True)
