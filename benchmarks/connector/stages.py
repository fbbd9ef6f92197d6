"""Which servers run at the same time, and the run through them.

A stage has the single server, which stays for the whole run, and one or both pairs over one transport. Every ratio is
between routes of one stage.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.connector.client import open_client
from benchmarks.connector.measurements import answers, concurrency, latency, speculation, threshold
from benchmarks.connector.options import Options
from benchmarks.connector.run import Run
from benchmarks.connector.topology import routes
from benchmarks.connector.topology.routes import Contender, OurPair, Route, Single, UpstreamPair
from benchmarks.connector.topology.servers import Place

BEFORE = "before"  # the pair of the checkout that --before names


@dataclass(frozen=True)
class Stage:
    name: str
    transport: str
    pairs: tuple[str, ...]


def stages(options: Options) -> list[Stage]:
    pairs = tuple(route for route in options.routes if route != "single") + ((BEFORE,) if options.before else ())
    if not pairs:
        return [Stage("single", "", ())]
    side_by_side = [pairs] if options.pairs_at_once >= len(pairs) else [(pair,) for pair in pairs]
    return [
        Stage(transport if group == pairs else f"{transport}, {group[0]}", transport, group)
        for transport in options.transports
        for group in side_by_side
    ]


def measure(run: Run) -> None:
    """Start and end the servers of each stage and measure on them.

    Raises: CannotStart, OutOfTime.
    """
    single: list[Route] = []
    for stage in stages(run.options):
        print(f"{stage.name}: starting servers", flush=True)
        pairs = _pairs(run, stage)
        wanted: list[Contender] = [*pairs]
        if "single" in run.options.routes and not single:
            wanted.append(_single(run))
        started = routes.start(wanted, run.processes, run.deadline)
        single += started[len(pairs) :]
        asyncio.run(_measure(run, stage.name, single, started[: len(pairs)]))
        run.processes.end([launch.name for pair in pairs for launch in pair.launches])


async def _measure(run: Run, stage: str, single: Sequence[Route], pairs: Sequence[Route]) -> None:
    async with open_client(run.options.request_timeout, run.deadline) as client:
        # Another checkout may have other made-up weights.
        await answers.compare(run, client, stage, single, [pair for pair in pairs if pair.name != BEFORE])
        if "latency" in run.options.measurements:
            await latency.measure(run, client, "latency", stage, [*single, *pairs], run.options.prompt_tokens)
        if "concurrency" in run.options.measurements:
            await concurrency.measure(run, client, stage, pairs)
        if "threshold" in run.options.measurements:
            await threshold.measure(run, client, stage, pairs)
        if "speculation" in run.options.measurements:
            await speculation.measure(run, client, stage, [*single, *pairs])


def _single(run: Run) -> Single:
    place, port = Place(gpus=run.options.single_gpus), next(run.ports)
    launches = [run.blueprint.single("single", port, place)]
    return Single(launches, f"http://{place.host}:{port}", run.options.data_parallel_size)


def _pairs(run: Run, stage: Stage) -> list[OurPair | UpstreamPair]:
    make: dict[str, Callable[[Run, str], OurPair | UpstreamPair]]
    make = {"ours": _our_pair, "upstream": _upstream_pair, BEFORE: _pair_of_before}
    return [make[name](run, stage.transport) for name in stage.pairs]


def _pair_of_before(run: Run, transport: str) -> OurPair:
    assert run.options.before is not None
    blueprint = run.blueprint.of(run.options.before.absolute())
    return _our_pair(dataclasses.replace(run, blueprint=blueprint), transport, BEFORE)


def _our_pair(run: Run, transport: str, name: str = "ours") -> OurPair:
    producer, consumer = Place(gpus=run.options.producer_gpus), Place(gpus=run.options.consumer_gpus)
    prefill, decode = next(run.ports), next(run.ports)
    variables = {**run.options.variables_of_ours, "MOONCAKE_PROTOCOL": transport}
    launches = [
        run.blueprint.ours(f"{transport}-{name}-producer", "producer", prefill, next(run.ports), producer, variables),
        run.blueprint.ours(f"{transport}-{name}-consumer", "consumer", decode, next(run.ports), consumer, variables),
    ]
    urls = f"http://{producer.host}:{prefill}", f"http://{consumer.host}:{decode}"
    return OurPair(name, launches, *urls, run.etcd)


def _upstream_pair(run: Run, transport: str) -> UpstreamPair:
    producer, consumer = Place(gpus=run.options.producer_gpus), Place(gpus=run.options.consumer_gpus)
    prefill, decode, bootstrap = (next(run.ports) for _ in range(3))
    make, name = run.blueprint.upstream, f"{transport}-upstream"
    launches = [
        make(f"{name}-producer", "producer", prefill, bootstrap, transport, producer),
        make(f"{name}-consumer", "consumer", decode, bootstrap, transport, consumer),
    ]
    urls = f"http://{producer.host}:{prefill}", f"http://{consumer.host}:{decode}"
    engines = run.options.data_parallel_size
    return UpstreamPair("upstream", launches, *urls, f"http://{producer.host}:{bootstrap}", engines)
