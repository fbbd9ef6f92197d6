"""A program in place of vLLM's server: python scripted_vllm.py PORT

`/health`, `/metrics` and `/v1/models` answer what the test last said with `POST /set?health=503&models=a,b:a`, where b
is an adapter of a; a status of 0 closes the connection without an answer, `health=none` keeps it open without one.
`running_next=1` counts from the answer after the next one of `/metrics`.
`POST /exit?code=7` ends it.
SIGTERM ends it, unless `sigterm=ignored` was said. It says what happened on its output.
"""

import http.server
import json
import os
import signal
import sys
import threading
import time
import urllib.parse
from types import FrameType

state = {
    "health": "200",
    "metrics": "200",
    "running": "0",
    "waiting": "0",
    "models": "the-model",
    "max_model_len": "2048",
    "sigterm": "obeyed",
}


def card(name: str, parent: str) -> dict[str, object]:
    """As vLLM makes it, times and ids anew in every answer."""
    permission = {"id": f"modelperm-{time.monotonic_ns()}", "created": time.time_ns(), "organization": "*"}
    length = None if parent else int(state["max_model_len"])
    card = {"id": name, "object": "model", "created": time.time_ns(), "owned_by": "vllm", "root": f"/{name}"}
    return card | {"parent": parent or None, "max_model_len": length, "permission": [permission]}


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        match self.path:
            case "/health":
                while state["health"] == "none":
                    time.sleep(0.02)
                self._answer(int(state["health"]), "")
            case "/metrics":
                lines = [f'vllm:num_requests_{kind}{{engine="1"}} {state[kind]}.0' for kind in ("running", "waiting")]
                lines += [f'vllm:num_requests_{kind}{{engine="0"}} 0.0' for kind in ("running", "waiting")]
                self._answer(int(state["metrics"]), "\n".join(["# HELP vllm:num_requests_running x", *lines, ""]))
                state["running"] = state.pop("running_next", state["running"])
            case "/v1/models":
                names = [listed.partition(":") for listed in state["models"].split(",")]
                models = [card(name, parent) for name, _, parent in names]
                self._answer(200, json.dumps({"object": "list", "data": models}))
            case "/pid":
                self._answer(200, str(os.getpid()))

    def do_POST(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        said = dict(urllib.parse.parse_qsl(url.query))
        if url.path == "/exit":
            print("exiting", flush=True)
            os._exit(int(said["code"]))
        state.update(said)
        self._answer(200, "")

    def _answer(self, status: int, body: str) -> None:
        if status:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Silent: the log must hold only what a test looks for."""


def on_sigterm(number: int, frame: FrameType | None) -> None:
    print("got SIGTERM", flush=True)
    if state["sigterm"] == "obeyed":
        os._exit(0)


signal.signal(signal.SIGTERM, on_sigterm)
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answers)
print("listening", flush=True)
threading.Thread(target=server.serve_forever).start()
threading.Event().wait()
