"""Stands in for a stack of two producers and two consumers, its store and the load test, and writes down what is asked.

`up` leaves servers behind: the proxy, which also answers for the instances, and the store's master where there is a
store; `down` ends them. The load test answers its requests by the side's rules: without the store a later turn takes
1 s and half of its prompt is found, with it 0.4 s and most of it is loaded. SCRIPTED_FAILS names a side at which it
fails, SCRIPTED_ANEW one at which an instance begins anew, SCRIPTED_SHORT one that is cut short after half.
"""

import json
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from tests.unit.benchmarks.serving.scripted_stack import MANIFEST, SUMMARY, log

PROMPT = 100  # tokens
# Of one prompt: found locally, from the store, computed.
TOKENS = {"false": (50, 0, 50), "true": (20, 70, 10)}
SOURCES = ("local_cache_hit", "external_kv_transfer", "local_compute")


def lines() -> list[str]:
    return Path(os.environ["SCRIPTED_LOG"]).read_text().splitlines()


def side() -> str:
    """STACK_STORE of the stack that is up."""
    return next(line for line in reversed(lines()) if line.startswith("up ")).split()[1]


def answered() -> int:
    """Requests since the start, those before the measurement as well."""
    since = max(number for number, line in enumerate(lines()) if line.startswith("up "))
    return sum(int(line.split()[-1]) for line in lines()[since:] if line.startswith(("load ", "first ")))


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self._answer().encode())

    def _answer(self) -> str:
        here = f"http://{self.headers['Host']}"
        match self.path.split("/")[1:]:
            case ["instances"]:
                names = [(role, f"{here}/{role}-{number}") for role in ("prefill", "decode") for number in (0, 1)]
                return json.dumps({"instances": [{"role": role, "url": url} for role, url in names]})
            case ["metrics"]:
                return proxy_metrics()
            case [name, "metrics"]:
                return instance_metrics(name)
        raise ValueError(self.path)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Master(Answers):
    def _answer(self) -> str:
        return "master_total_capacity_bytes 1048576\nmaster_key_count 7\nmaster_evicted_key_count 2\n"


def proxy_metrics() -> str:
    loaded = TOKENS[side()][1] * answered()
    prompts = {"hit": answered(), "miss": 0} if loaded else {}
    found = [f'pd_proxy_store_prompts_total{{result="{name}"}} {number}.0' for name, number in prompts.items()]
    return "\n".join(
        ["# TYPE pd_proxy_store_tokens_total counter", f"pd_proxy_store_tokens_total {loaded}.0", *found, ""]
    )


def instance_metrics(name: str) -> str:
    """The first producer has all prompts, and the first consumer computes one token of each."""
    number = 0 if name.endswith("1") else answered()
    if name == "prefill-0" and any(line == "anew" for line in lines()):
        number = 0
    tokens = TOKENS[side()] if name.startswith("prefill") else (0, PROMPT - 1, 1)
    text = [
        f'vllm:prompt_tokens_by_source_total{{engine="0",source="{source}"}} {count * number}.0'
        for source, count in zip(SOURCES, tokens, strict=True)
    ]
    return "\n".join([*text, ""])


def stack(verb: str) -> None:
    state = Path(os.environ["STACK_DIR"])
    state.mkdir(parents=True, exist_ok=True)
    pids = state / "pids"
    if verb == "up":
        known = ("STACK_STORE", "KV_CACHE_BYTES", "STORE_BYTES", "PREFILL_REPLICAS", "STACK_MODE")
        log("up " + " ".join(os.environ[name] for name in known) + os.environ["STORE_MASTER"])
        ports = [("proxy", int(os.environ["PROXY_PORT"]))]
        if os.environ["STACK_STORE"] == "true":
            ports.append(("master", int(os.environ["STORE_PORT"]) + 1))
        command = [sys.executable, "-S", __file__, "serve"]
        servers = [subprocess.Popen([*command, name, str(port)], start_new_session=True) for name, port in ports]
        pids.write_text(" ".join(str(server.pid) for server in servers))
    elif pids.exists():
        log("down")
        for pid in pids.read_text().split():
            os.kill(int(pid), signal.SIGTERM)
        pids.unlink()


def load_test(words: list[str]) -> int:
    told = {name.removeprefix("LOADTEST_"): value for name, value in os.environ.items() if name.startswith("LOADTEST_")}
    folder = Path(told["RUN_DIR"])
    (folder / "run.json").write_text(json.dumps({"manifest": MANIFEST, "settings": {}, "summary": SUMMARY}))
    if told["WORKLOAD"] == "random":
        log("first requests 3")
        return 0
    if side() == os.environ.get("SCRIPTED_FAILS"):
        print("no model is served")
        return 2
    if told["WORKLOAD"] == "trace":
        wanted = len(Path(told["TRACE_FILE"]).read_text().splitlines())
        what = f"{told['ARRIVALS']} {told['TRACE_LENGTH_SCALE']}"
    else:
        wanted = int(told["REQUESTS"])
        users = " ".join(words[words.index("--users") :])
        what = f"{told['ARRIVALS']} {told['CHAT_SESSIONS']} {told['CHAT_TURNS']} {users}"
    made = wanted // 2 if side() == os.environ.get("SCRIPTED_SHORT") else wanted
    records = [record(index, int(told.get("CHAT_SESSIONS", "2"))) for index in range(made)]
    (folder / "requests.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    log(f"load {told['WORKLOAD']} {what} seed {told['SEED']} {made}")
    if side() == os.environ.get("SCRIPTED_ANEW"):
        log("anew")
    return 1  # requests have failed, which is a result


def record(index: int, sessions: int) -> dict[str, object]:
    """The first is a failure."""
    if index == 0:
        about = {"outcome": "failed", "error": "HttpError", "message": "503"}
        return {"index": index, **about, "scheduled": 1.0, "started": 1.0, "ended": 1.1}
    local, loaded, _ = TOKENS[side()]
    ttft = 2.0 if index < sessions else (0.4 if loaded else 1.0)
    return {
        **{"index": index, "outcome": "completed", "scheduled": 1.0, "started": 1.0, "ended": 9.0},
        **{"first_content": 1.0 + ttft, "prompt_tokens": PROMPT, "cached_tokens": local + loaded},
        **({"store_tokens": loaded} if loaded else {}),
    }


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["-m", "stack", verb]:
            stack(verb)
        case ["serve", name, port]:
            HTTPServer(("127.0.0.1", int(port)), Master if name == "master" else Answers).serve_forever()
        case [*words]:
            sys.exit(load_test(words))
