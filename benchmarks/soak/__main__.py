"""The load that broke the demo this project grew from, for longer: 10 users, then 100. python -m benchmarks.soak

It uses the stack that runs, or starts one and ends it again. Exit status 1 when a line of the report failed;
docs/benchmarks/README.md says more.
"""

import json
import re
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import program
from benchmarks.errors import BenchmarkError, CannotStart
from benchmarks.results import Results
from benchmarks.soak import charts, page, sample, starting
from benchmarks.soak.options import Options, parse
from benchmarks.soak.processes import tree_memory
from benchmarks.soak.sample import Sample
from benchmarks.soak.stack import RunningStack, Unreachable
from benchmarks.soak.verdict import LOAD, Ended, lines
from benchmarks.soak.watch import Hang, Watch
from stack.configuration import env_file
from stack.configuration.environment import load_or_exit
from stack.configuration.settings import StackSettings
from stack.host import machine

DISTRIBUTIONS = re.compile(r"locust|geventhttpclient|gevent", re.IGNORECASE)


def main() -> int:
    options = parse(sys.argv[1:])
    env_file.apply_or_exit()
    settings = load_or_exit(StackSettings)
    signal.signal(signal.SIGTERM, program.end)
    folder = options.out or settings.stack_dir / "runs" / f"soak-{time.strftime('%Y-%m-%dT%H%M%S', time.gmtime())}"
    results = Results(folder.absolute(), "report", _about(options, settings), page.render)
    how, status = "early", 1
    try:
        with starting.running(settings) as stack:
            status = _soak(options, settings.proxy_url, stack, results)
        how = "complete"
    except (BenchmarkError, Unreachable) as error:
        how = str(error).splitlines()[0]
        print(f"soak: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        how = "interrupted"
    finally:
        results.end(how)
        if results.json_file.exists():
            html = results.json_file.with_suffix(".html")
            html.write_text(charts.render(json.loads(results.json_file.read_text())))
            print(f"report: {results.page_file} and {html.name}")
    return status


def _soak(options: Options, proxy_url: str, stack: RunningStack, results: Results) -> int:
    """Returns: 0 when every line of the verdict that could be judged is met."""
    instances = sample.instance_urls(stack, proxy_url)
    if not instances:
        raise CannotStart(f"{proxy_url}/instances: expected instances, found none")
    run_folder = results.json_file.parent / "load"
    samples: list[Sample] = []

    def keep(one: Sample) -> None:
        samples.append(one)
        results.add("samples", **asdict(one))

    before = sample.take(stack, proxy_url, instances, at=0.0)
    keep(before)
    load = starting.start_load(
        [*options.load_arguments, "--run-dir", stack.run_folder(run_folder)], run_folder.with_name("load.log")
    )

    def take(at: float) -> Sample:
        one = sample.take(stack, proxy_url, instances, at)
        return replace(one, memory={**one.memory, LOAD: tree_memory(load.pid)})

    watch = Watch(options, take, keep)
    status, hang = None, None
    try:
        status = watch.follow(load)
    except Hang as error:
        hang = str(error)
        print(f"soak: {hang}", file=sys.stderr)
    except KeyboardInterrupt:
        print("soak: interrupted; what was seen until now is judged", file=sys.stderr)
    finally:
        ended_at = watch.now
        if load.poll() is None:
            stack.end_load(load)
    watch.settle(before)
    stack.fetch(run_folder)
    summary = _summary(run_folder)
    verdict = lines(options, samples, Ended(ended_at, status, hang, summary))
    if summary is not None:
        results.add("summary", **summary)
    for line in verdict:
        results.add("lines", **asdict(line))
        print(f"{ {True: 'ok', False: 'NO', None: '--'}[line.passed] }  {line.name}: {line.measured}")
    return int(any(line.passed is False for line in verdict))


def _summary(run_folder: Path) -> dict[str, Any] | None:
    file = run_folder / "run.json"
    return dict(json.loads(file.read_text())["summary"]) if file.exists() else None


def _about(options: Options, settings: StackSettings) -> dict[str, Any]:
    return {
        **program.about("benchmarks.soak", "Endurance"),
        "machine": machine.hardware(),
        "versions": {**machine.versions("", DISTRIBUTIONS), "model": settings.model},
        "settings": {
            "duration_s": options.duration_s,
            "judged_from_s": options.judged_from_s,
            "stages": options.stages,
            "input_tokens": options.input_tokens,
            "output_tokens": options.output_tokens,
        },
    }


if __name__ == "__main__":
    sys.exit(main())
