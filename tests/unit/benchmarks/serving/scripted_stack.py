"""Stands in for the stack, the load test, vLLM's launcher and vllm-router, and writes down what it is asked for.

`up` leaves a server behind that knows of instances, as the stack's proxy does: two of its own, or of the launchers that
have begun where the stack has none; `down` ends it. The load test writes the files of a run, unless SCRIPTED_FAILS
names its point's rate; at SCRIPTED_LOSES it loses the stack an instance. The router listens, and nothing more.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

RATES = ("offered_per_s", "requests_per_s", "output_tokens_per_s", "goodput_per_s", "goodput_share")
TIMES = ("ttft_s", "itl_s", "tpot_s")
OTHER_DISTRIBUTIONS = ("end_to_end_s", "start_delay_s", "worst_gaps_s", "input_tokens", "output_tokens")
COUNTS = ("errors", "phases_s", "paths", "transports", "unexpected_lengths")
SUMMARY = {
    **{"from_s": 0.0, "until_s": 40.0, "requests": 3, "outcomes": {"completed": 3}, "cached_share": 0.0},
    **dict.fromkeys(RATES, 1.0),
    **{name: {"count": 3, "p50": 0.5, "p99": 0.75} for name in TIMES},
    **{name: {"count": 0} for name in OTHER_DISTRIBUTIONS},
    **{name: {} for name in COUNTS},
}
MANIFEST = {
    **{"target": "http://127.0.0.1", "models": ["m"], "instances": [{"role": "prefill"}, {"role": "decode"}]},
    **{"servers": {"vLLM": ["0.32.0"]}, "seed": 0, "warmup_s": 0.0, "command": "", "versions": {}, "hardware": {}},
    **{"started_at": "2026-01-01", "load_s": 60.0},  # the schedule ended before
}


class Instances(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        begun = Path(os.environ["SCRIPTED_LOG"]).read_text().count("server ")
        number = 2 if "prefill" in os.environ["STACK_SERVICES"] else begun
        if Path(f"{os.environ['SCRIPTED_LOG']}.died").exists():
            number -= 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"instances": [{"url": f"http://{i}"} for i in range(number)]}).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


def log(line: str) -> None:
    with Path(os.environ["SCRIPTED_LOG"]).open("a") as file:
        file.write(line + "\n")


def stack(verb: str) -> None:
    state = Path(os.environ["STACK_DIR"])
    state.mkdir(parents=True, exist_ok=True)
    pid = state / "pid"
    if verb == "up":
        log(f"up {os.environ['COMPOSE_FILE']}")
        server = subprocess.Popen(
            [sys.executable, "-S", __file__, "serve", os.environ["PROXY_PORT"]], start_new_session=True
        )
        pid.write_text(str(server.pid))
    elif pid.exists():
        log("down")
        os.kill(int(pid.read_text()), signal.SIGTERM)
        pid.unlink()


def load_test() -> int:
    rate = os.environ.get("LOADTEST_RATE", "trace")
    folder = Path(os.environ["LOADTEST_RUN_DIR"])
    counted_elsewhere = os.environ["LOADTEST_TOKENIZER"] not in ("", os.environ["LOADTEST_TARGET"])
    log(f"load {rate} {os.environ['LOADTEST_SEED']}" + (" tokens counted elsewhere" if counted_elsewhere else ""))
    if rate == os.environ.get("SCRIPTED_LOSES"):
        Path(f"{os.environ['SCRIPTED_LOG']}.died").touch()
    if rate == os.environ.get("SCRIPTED_FAILS"):
        print("no model is served")
        return 2
    (folder / "run.json").write_text(json.dumps({"manifest": MANIFEST, "settings": {}, "summary": SUMMARY}))
    (folder / "requests.jsonl").touch()
    return 1  # requests have failed, which is a result


def server() -> None:
    words = shlex.split(os.environ["VLLM_EXTRA_ARGS"])
    config = json.loads(words[words.index("--kv-transfer-config") + 1])
    log(f"server {os.environ['VLLM_DISTRIBUTED_KV_ROLE']} {config['kv_connector']} {config['kv_role']}")
    signal.pause()


def router(words: list[str]) -> None:
    given = {name: words[words.index(name) + 1 :] for name in ("--port", "--prefill", "--decode")}
    log(f"router {given['--prefill'][0] != given['--decode'][0]} {given['--prefill'][1].isdecimal()}")
    HTTPServer(("127.0.0.1", int(given["--port"][0])), Instances).serve_forever()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["-m", "stack", verb]:
            stack(verb)
        case ["serve", port]:
            HTTPServer(("127.0.0.1", int(port)), Instances).serve_forever()
        case ["-m", "connector.instance.launcher"]:
            server()
        case [*words] if "--vllm-pd-disaggregation" in words:
            router(words)
        case _:
            sys.exit(load_test())
