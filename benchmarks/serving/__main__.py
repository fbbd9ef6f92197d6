"""Compares disaggregated with aggregated serving and writes a page: python -m benchmarks.serving

It starts and ends everything itself, and goes on where it was interrupted; docs/benchmarks/README.md says more.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

from benchmarks import program
from benchmarks.errors import BenchmarkError, CannotStart
from benchmarks.model_shapes import folder as shape_folder
from benchmarks.model_shapes.full import QWEN25_7B
from benchmarks.serving.options import Options, parse
from benchmarks.serving.plan import MIXTURE, UPSTREAM, Plan
from benchmarks.serving.report.document import Documents
from benchmarks.serving.sweep import Sweep
from benchmarks.whole_stack.resuming import begun, code_fingerprint, to_its_end
from benchmarks.whole_stack.users_variables import set_variables
from benchmarks.whole_stack.workplace import workplace
from stack.configuration import env_file
from stack.configuration.environment import load_or_exit
from stack.configuration.settings import StackSettings
from stack.running import compose


def main() -> int:
    env_file.apply_or_exit()
    options = parse(sys.argv[1:])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, program.end)
    os.environ.update(options.variables)
    try:
        if options.qwen_shaped:
            _serve_made_up_weights(options)
        users = load_or_exit(StackSettings)
        if users.stack_mode == "auto":  # decided once, for all sides, and shown on the page
            os.environ["STACK_MODE"] = "docker" if compose.is_available() else "processes"
            users = load_or_exit(StackSettings)
        if UPSTREAM in options.sides and users.stack_mode == "docker":
            raise CannotStart(f"STACK_MODE=docker: {UPSTREAM} runs as processes; set STACK_MODE=processes")
        plan = options.plan(set_variables())
        work = options.work / plan.fingerprint(code_fingerprint(MIXTURE))
        if options.fresh:
            shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        name, started = begun(work / "begun.json", ("serving", options.profile), plan.conditions())
        documents = Documents(options.results, name, work, plan, options.commit)
        return _measure(options, plan, users, work, documents, started)
    except BenchmarkError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1


def _measure(options: Options, plan: Plan, users: StackSettings, work: Path, documents: Documents, started: str) -> int:
    def measure() -> None:
        with workplace(options, users, work) as place:
            Sweep(options, plan, place).measure(lambda: documents.write(started, "not yet"))

    def write(ended: str) -> None:
        documents.write(started, ended)
        print(f"results: {documents.page_file}", flush=True)

    return to_its_end(measure, write)


def _serve_made_up_weights(options: Options) -> None:
    assert options.qwen_shaped is not None
    folder = shape_folder.write(QWEN25_7B, options.work.resolve() / "models/qwen2.5-7b-shape", options.qwen_shaped)
    os.environ["MODEL"] = str(folder)
    os.environ.setdefault("SERVED_MODEL_NAME", "qwen2.5-7b-shape")
    os.environ["VLLM_EXTRA_ARGS"] = f"{os.environ.get('VLLM_EXTRA_ARGS', '')} --load-format dummy".strip()


if __name__ == "__main__":
    sys.exit(main())
