"""From the producer's end to the consumer's last byte over a slow link: layer by layer against all at the end.

`streaming off` is KV_STREAMING=chunk with a prompt that fits one chunk: then nothing moves before its prefill has
ended. Two producers, one of each kind, share one consumer and take turns.
"""

import asyncio

from benchmarks.connector.client import open_client
from benchmarks.connector.measurements import latency
from benchmarks.connector.run import Run
from benchmarks.connector.topology import routes
from benchmarks.connector.topology.namespaces import CONSUMER_HOST, PRODUCER_HOST, Link
from benchmarks.connector.topology.routes import OurPair, Route
from benchmarks.connector.topology.servers import Place
from benchmarks.errors import CannotStart

STREAMING = {"layer by layer": "layer", "streaming off": "chunk"}


def measure(run: Run, link: Link) -> None:
    """Adds a row for every request to the table `link`. Raises: CannotStart, OutOfTime."""
    options = run.options
    if options.link_prompt_tokens > options.max_num_batched_tokens:
        raise CannotStart(
            f"--link-prompt-tokens={options.link_prompt_tokens}: expected at most --max-num-batched-tokens "
            f"({options.max_num_batched_tokens}), or streaming would not be off"
        )
    asyncio.run(_measure(run, routes.start(_pairs(run, link), run.processes, run.deadline)))


def _pairs(run: Run, link: Link) -> list[OurPair]:
    given = run.options.variables_of_ours
    producer, consumer = Place(PRODUCER_HOST), Place(CONSUMER_HOST, prefix=link.enter_consumer)
    decode = next(run.ports)
    launches = [run.blueprint.ours("link-consumer", "consumer", decode, next(run.ports), consumer, given)]
    pairs = []
    for name, streaming in STREAMING.items():
        prefill, variables = next(run.ports), {**given, "KV_STREAMING": streaming}
        server = f"link-{streaming}-producer"
        launches.append(run.blueprint.ours(server, "producer", prefill, next(run.ports), producer, variables))
        urls = f"http://{producer.host}:{prefill}", f"http://{consumer.host}:{decode}"
        pairs.append(OurPair(name, launches, *urls, run.etcd))
        launches = []  # the consumer starts once
    return pairs


async def _measure(run: Run, pairs: list[Route]) -> None:
    async with open_client(run.options.request_timeout, run.deadline) as client:
        await latency.measure(run, client, "link", run.options.link_rate, pairs, [run.options.link_prompt_tokens])
