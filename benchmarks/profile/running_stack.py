"""The instances of the stack that runs: a producer, a consumer that it pairs with, and the consumer's KV cache."""

import re
from collections.abc import Sequence

from benchmarks.connector.topology.routes import Route, Way
from benchmarks.errors import CannotStart
from benchmarks.profile.asking import Routes
from stack.instances.record import Instance

_CACHE = re.compile(r"^vllm:cache_config_info\{(.*)\}", re.MULTILINE)
_BUSY = re.compile(r"^vllm:num_requests_(?:running|waiting)\{.*\} ([\d.]+)", re.MULTILINE)


def pair(records: Sequence[Instance]) -> tuple[Instance, Instance]:
    """Raises: CannotStart: there is none, or another kind of stack."""
    producers = [each for each in records if each.role == "prefill"]
    consumers = [each for each in records if each.role == "decode"]
    for consumer in consumers:
        for producer in producers:
            if producer.fingerprint == consumer.fingerprint:
                if producer.engines or consumer.engines:
                    raise CannotStart("the instances have data-parallel engines: profile a stack without")
                return producer, consumer
    roles = ", ".join(sorted(each.role for each in records)) or "none"
    raise CannotStart(f"no prefill and decode instance that pair (registered: {roles}): `make up` starts them")


def routes(producer: Instance, consumer: Instance, proxy_url: str) -> Routes:
    return Routes(
        Route("consumer", consumer.url),
        Route("producer", producer.url),
        Route("pair", consumer.url, producer.url, [Way(consumer_params={"producer": producer.kv_transfer})]),
        Route("proxy", proxy_url),
    )


def kv_cache(metrics: str) -> tuple[int, int]:
    """Tokens that fit, and of a block, as the instance's /metrics have them. Raises: CannotStart."""
    found = _CACHE.search(metrics)
    labels = dict(re.findall(r'(\w+)="([^"]*)"', found[1])) if found else {}
    try:
        block_tokens = int(labels["block_size"])
        return int(labels["num_gpu_blocks"]) * block_tokens, block_tokens
    except (KeyError, ValueError) as error:
        raise CannotStart("the consumer's /metrics tell nothing of its KV cache (vllm:cache_config_info)") from error


def requests_in_hand(metrics: str) -> int:
    return int(sum(float(number) for number in _BUSY.findall(metrics)))
