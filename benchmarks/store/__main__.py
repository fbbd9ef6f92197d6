"""TTFT with a KV store that instances share: python -m benchmarks.store --profile gpu

It starts everything itself, with the interpreter that runs it, and ends it again; docs/benchmarks/README.md says more.
"""

import asyncio
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from benchmarks import etcd_server, program
from benchmarks.connector.client import Client, open_client
from benchmarks.connector.prompts import Prompts
from benchmarks.connector.topology import servers
from benchmarks.connector.topology.routes import Route
from benchmarks.connector.topology.servers import Place
from benchmarks.deadline import Deadline
from benchmarks.ports import free_ports
from benchmarks.processes import Processes
from benchmarks.results import Results
from benchmarks.store import page, programs
from benchmarks.store.instances import ANEW, FIRST, PLAIN, SECOND, Instances
from benchmarks.store.options import Options, parse
from benchmarks.store.programs import Store
from benchmarks.store.turns import Turns


def main() -> int:
    options = parse(sys.argv[1:])
    servers.forget_settings_of_the_shell()
    signal.signal(signal.SIGTERM, program.end)
    results = Results(options.out, program.name((options.profile, "store")), _about(options), page.render)

    def measure(scratch: Path, processes: Processes) -> None:
        deadline, ports = Deadline(options.time_limit), free_ports()
        place = Place(gpus=options.gpus)
        binary = etcd_server.find(options.etcd)
        etcd = etcd_server.start(binary, scratch / "etcd", place.host, ports, processes, deadline)
        store = programs.start(options.store_bytes, options.profile, ports, processes, deadline)
        model = servers.model_folder(options, scratch)
        blueprint = servers.blueprint(options, model, etcd, secrets.token_hex(32))
        variables = options.variables_of_ours
        instances = Instances(blueprint, place, variables, etcd, store.address, ports, processes, deadline)
        _measure(options, results, instances, store)

    return program.measure_and_write(results, options.logs, measure)


def _measure(options: Options, results: Results, instances: Instances, store: Store) -> None:
    turns = Turns(options, Prompts(options.seed), results)

    async def with_client(measure: Callable[[Client, Mapping[str, Route]], Awaitable[None]]) -> None:
        async with open_client(options.request_timeout, instances.deadline) as client:
            await measure(client, running)

    print("starting servers", flush=True)
    running = instances.start((PLAIN, FIRST, SECOND))
    asyncio.run(with_client(turns.measure))
    print(f"starting {SECOND} anew", flush=True)
    instances.end(SECOND)
    running |= instances.start((ANEW,))
    asyncio.run(with_client(turns.measure_again))
    if counted := store.counted():
        results.add("store", **counted)


def _about(options: Options) -> dict[str, object]:
    shape = f", shape of {options.model_shape}, {options.shape_scale}" if options.model_shape else ""
    title = f"A shared KV store on a {options.profile.upper()}{shape}"
    return {**program.about("benchmarks.store", title), **servers.about(options), "store_bytes": options.store_bytes}


if __name__ == "__main__":
    sys.exit(main())
