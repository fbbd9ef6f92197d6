"""Chats, or a trace, with and without a shared KV store: python -m benchmarks.store.conversations

It starts and ends whole stacks itself, and goes on where it was interrupted; docs/benchmarks/README.md says more.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

from benchmarks import program
from benchmarks.errors import BenchmarkError, CannotStart
from benchmarks.store.conversations.documents import Documents
from benchmarks.store.conversations.measuring import Measuring
from benchmarks.store.conversations.options import Options, parse
from benchmarks.store.conversations.plan import CODE, Plan
from benchmarks.whole_stack.resuming import begun, code_fingerprint, to_its_end
from benchmarks.whole_stack.users_variables import set_variables
from benchmarks.whole_stack.workplace import workplace
from stack.configuration import env_file
from stack.configuration.environment import load_or_exit
from stack.configuration.settings import StackSettings

OVERLAYS = ("compose.store.yaml", "compose.baseline.yaml")
# The comparison's own: they differ between its sides, or are options.
OWN = ("STACK_STORE", "STORE_MASTER", "STORE_BYTES", "KV_CACHE_BYTES", "MAX_MODEL_LEN", "STACK_MODE")


def main() -> int:
    env_file.apply_or_exit()
    options, load = parse(sys.argv[1:])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, program.end)
    os.environ.update(options.variables)
    try:
        users = _users()
        variables = {name: value for name, value in set_variables().items() if name not in OWN}
        plan = options.plan(load, variables)
        work = options.work / f"store-{plan.fingerprint(code_fingerprint(*CODE))}"
        if options.fresh:
            shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        words = ("gpu" if users.uses_gpu else "cpu", "store", load.name)
        name, started = begun(work / "begun.json", words, plan.conditions())
        return _measure(options, plan, users, work, Documents(options, plan, users, work, name, started))
    except BenchmarkError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1


def _users() -> StackSettings:
    """As processes, whose instances and store can be asked what they have counted. Raises: CannotStart."""
    users = load_or_exit(StackSettings)
    if users.stack_mode == "docker":
        raise CannotStart("STACK_MODE=docker: instances in containers cannot be asked; expected processes")
    if overlays := [name for name in OVERLAYS if name in users.overlays]:
        raise CannotStart(f"COMPOSE_FILE={users.compose_file!r}: expected no {overlays[0]}: sides differ by the store")
    os.environ["STACK_MODE"] = "processes"
    return load_or_exit(StackSettings)


def _measure(options: Options, plan: Plan, users: StackSettings, work: Path, documents: Documents) -> int:
    def measure() -> None:
        with workplace(options, users, work) as place:
            Measuring(plan, place).measure(lambda: documents.write("not yet"))

    return to_its_end(measure, documents.write)


if __name__ == "__main__":
    sys.exit(main())
