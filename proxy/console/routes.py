"""Paths of the console: its page, for everyone, and what it shows, for who has a key."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quart import Blueprint, Response, request

from proxy.console import told, totals
from proxy.console.loadtest_runs import newest_runs
from proxy.console.minutes import LastMinutes
from proxy.console.verdicts import verdicts
from proxy.console.workers import Workers
from proxy.exchange.gateway import Gateway
from proxy.ratio import watch
from proxy.status import described
from proxy.telemetry.history import MOST_REQUESTS

PAGE = Path(__file__).parent / "page"
DATA = "/console/api/"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Nothing but the page's own files, no script in the page, and no other page around it.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
PAGE_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

Json = dict[str, Any]


def console_routes(gateway: Callable[[], Gateway]) -> Blueprint:
    """`gateway` gives the one of the running app."""
    routes = Blueprint("console", __name__)
    files = {file.name: file.read_bytes() for file in PAGE.iterdir() if file.is_file()}
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")  # the server makes it for its workers
    workers = Workers(Path(folder) if folder else None, lambda question: answer(gateway(), question))
    minutes = LastMinutes()

    @routes.before_app_serving
    async def start() -> None:
        await workers.start()

    @routes.after_app_serving
    async def close() -> None:
        await workers.close()

    @routes.get("/")
    async def page() -> Response:
        return _file("index.html", files["index.html"])

    for name, content in files.items():

        async def file(name: str = name, content: bytes = content) -> Response:
            return _file(name, content)

        routes.add_url_rule(f"/console/{name}", name.replace(".", "-"), file, methods=["GET"])

    @routes.get(f"{DATA}requests")
    async def requests() -> Response:
        since = request.args.get("since", 0.0, float)
        answers = await workers.ask("requests", since)
        rows = sorted((row for each in answers for row in each["requests"]), key=lambda row: -row["at"])
        return _json({"workers": [each["worker"] for each in answers], "requests": rows[:MOST_REQUESTS]})

    @routes.get(f"{DATA}requests/<path:name>")
    async def one_request(name: str) -> Response:
        for found in await workers.ask("request", name):
            if found is not None:
                return _json(found)
        return _json({"error": {"message": "No such request among the last.", "code": "not_found"}}, 404)

    @routes.get(f"{DATA}now")
    async def now() -> Response:
        told, answers = await minutes.told(lambda since, until: workers.ask("counts", since, until), time.time())
        limits = gateway().settings
        return _json(
            told
            | {
                "workers": [each["worker"] for each in answers],
                "running": sum(each["running"] for each in answers),
                "queued": sum(each["queued"] for each in answers),
                "most_queued": limits.proxy_max_queued_requests * len(answers),
                "local_prompt_tokens": limits.proxy_local_prompt_tokens,
                "loadtest": {"port": limits.locust_port, "runs": newest_runs(limits.runs_dir)},
            }
        )

    @routes.get(f"{DATA}map")
    async def fleet() -> Response:
        # No slot more than it shows: to tell fifteen busy minutes stops everything else for some 30 ms.
        answers = await workers.ask("counts", totals.late_since(time.time()), float("inf"))
        shown = described(gateway(), time.time())
        own = gateway().gauges.known(gateway().fleet.view.instances)
        for instance in shown["instances"]:
            instance["gauges"] = own.get(instance["instance_id"])
            hands = [each["in_hand"].get(instance["instance_id"], (0, 0)) for each in answers]
            instance["outstanding"] = sum(requests for requests, _ in hands)
            instance["outstanding_tokens"] = sum(tokens for _, tokens in hands)
        flows = totals.flows_of((slot for each in answers for slot in each["slots"]), time.time())
        return _json(shown | {"workers": [each["worker"] for each in answers], "flows": flows})

    @routes.get(f"{DATA}ratio")
    async def ratio() -> Response:
        fleet, limits = gateway().fleet, gateway().settings
        gateway().gauges.known(fleet.view.usable)  # begins to ask
        answers = await workers.ask("ratio")
        windows = watch.windows((each["parts"] for each in answers), time.time())
        found = verdicts(watch.Pairs(fleet.view), windows, limits.proxy_goodput_tpot_s)
        answered = [each["worker"] for each in answers]
        return _json({"workers": answered, "tpot_ms": 1000 * limits.proxy_goodput_tpot_s, "verdicts": found})

    return routes


def answer(gateway: Gateway, question: list[Any]) -> Any:
    """What this process knows, to itself or to another worker of the same proxy."""
    history, worker = gateway.metrics.history, os.getpid()
    match question:
        case ["requests", since]:
            return {"worker": worker, "requests": [told.row(past, worker) for past in history.since(since)]}
        case ["request", str(name)]:
            own, _, key = name.partition("-")
            past = (history.of_key(key) if own == str(worker) else None) or history.of_id(name)
            return None if past is None else told.whole(past, worker)
        case ["counts", since, until]:
            fleet = gateway.fleet
            return {
                "worker": worker,
                "running": len(gateway.being_served) - gateway.admission.queued_requests,
                "queued": gateway.admission.queued_requests,
                "in_hand": {
                    each.instance_id: (fleet.outstanding(each.instance_id), fleet.outstanding_tokens(each.instance_id))
                    for each in fleet.view.instances
                },
                "slots": [
                    (slot.start, [[*names, value] for names, value in slot.told()])
                    for slot in history.slots(since)
                    if slot.start < until
                ],
            }
        case ["ratio"]:
            return {"worker": worker, "parts": gateway.watch.told()}
    raise ValueError(f"{question!r}: expected requests, request, counts or ratio")


def _file(name: str, content: bytes) -> Response:
    return Response(content, headers=PAGE_HEADERS, content_type=f"{TYPES[Path(name).suffix]}; charset=utf-8")


def _json(content: Json, status: int = 200) -> Response:
    # In ASCII: a name with half of a surrogate pair has no UTF-8.
    return Response(json.dumps(content), status, {"Cache-Control": "no-store"}, content_type="application/json")
