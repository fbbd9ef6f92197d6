"""Runs one benchmark and writes its results: python -m benchmarks.connector latency concurrency --profile gpu

It starts everything itself, with the interpreter that runs it, and ends it again; docs/benchmarks/README.md says more.
"""

import os
import re
import secrets
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from benchmarks import etcd_server, machine
from benchmarks.connector import link, page, servers, stages
from benchmarks.connector.model import make_qwen_shaped
from benchmarks.connector.namespaces import PRODUCER_HOST, shaped_link
from benchmarks.connector.options import Options, parse
from benchmarks.connector.prompts import Prompts
from benchmarks.connector.run import Run
from benchmarks.deadline import Deadline
from benchmarks.errors import BenchmarkError, CannotStart, OutOfTime
from benchmarks.ports import free_ports
from benchmarks.processes import Processes
from benchmarks.results import Results
from stack.settings import EMBEDDED_MODEL, REPOSITORY

LOOPBACK = "127.0.0.1"
DISTRIBUTIONS = re.compile(r"(vllm|mooncake|torch$|etcd.distro).*", re.IGNORECASE)


def main() -> int:
    options = parse(sys.argv[1:])
    servers.forget_settings_of_the_shell()
    signal.signal(signal.SIGTERM, _end)
    try:
        results = Results(options.out, _name(options), _about(options), page.render)
        _run(options, results)
    except BenchmarkError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    print(f"results: {results.page_file}")
    return 0


def _run(options: Options, results: Results) -> None:
    """Measure; however it ends, the results say how. Raises: BenchmarkError: other than OutOfTime."""
    how = "early"
    try:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch, Processes(options.logs) as processes:
            _measure(options, results, Path(scratch), processes)
        how = "complete"
    except OutOfTime as error:
        how = str(error)
        print(f"benchmark: {error}: measured no further", file=sys.stderr)
    except BenchmarkError as error:
        how = str(error).splitlines()[0]
        raise
    finally:
        results.end(how)


def _measure(options: Options, results: Results, scratch: Path, processes: Processes) -> None:
    deadline = Deadline(options.time_limit)
    ports = free_ports()
    slow = shaped_link(options.link_rate) if "link" in options.measurements else None
    host = PRODUCER_HOST if slow else LOOPBACK
    etcd = etcd_server.start(etcd_server.find(options.etcd), scratch / "etcd", host, ports, processes, deadline)
    blueprint = servers.blueprint(options, _model(options, scratch), etcd, secrets.token_hex(32))
    run = Run(options, blueprint, etcd, ports, processes, Prompts(options.seed), results, deadline)
    if slow:
        link.measure(run, slow)
    else:
        stages.measure(run)


def _model(options: Options, scratch: Path) -> Path:
    if options.profile == "gpu" and not options.model:
        return make_qwen_shaped(scratch / "qwen2.5-7b-shape", options.model_tokenizer)
    folder = Path(options.model or REPOSITORY / ".stack/models" / EMBEDDED_MODEL).absolute()
    if not (folder / "config.json").is_file():
        raise CannotStart(f"--model={str(folder)!r}: expected a model's folder; `python -m stack.prepare` makes one")
    return folder


def _name(options: Options) -> str:
    return "-".join((time.strftime("%Y-%m-%dT%H%M", time.gmtime()), options.profile, *options.measurements))


def _about(options: Options) -> dict[str, object]:
    words = [os.path.relpath(word) if word.startswith(str(REPOSITORY)) else word for word in sys.argv[1:]]
    return {
        "title": f"{' and '.join(options.measurements).capitalize()} on a {options.profile.upper()}",
        "command": shlex.join(["python", "-m", "benchmarks.connector", *words]),
        "started": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": machine.hardware(),
        "versions": machine.versions(options.commit, DISTRIBUTIONS),
        "settings": {name: value for name, value in servers.common(options).items() if name != "MODEL"},
    }


def _end(number: int, frame: FrameType | None) -> None:
    """A termination ends the servers and writes the results, as an interrupt does."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
