"""What is seen of the stack at one moment: each service's memory, requests at the proxy, KV blocks of the instances."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.soak.stack import RunningStack, Unreachable

T = TypeVar("T")
COMPLETIONS = ("/v1/completions", "/v1/chat/completions")


@dataclass(frozen=True)
class Requests:
    """Completions as the proxy counts them, since it started."""

    answered: int
    others: dict[str, int]  # by what became of them: an error's code, or client_left
    in_flight: int


@dataclass(frozen=True)
class Instance:
    """A vLLM server. `blocks` are those of its KV cache that are in use; the last two are counted since it started."""

    running: int
    waiting: int
    blocks: int
    preemptions: int
    failed_transfers: int


@dataclass(frozen=True)
class Sample:
    """`at`: seconds since the start. What did not answer is missing, and named in `silent`."""

    at: float
    memory: dict[str, int]  # bytes by member
    identities: dict[str, str]
    requests: Requests | None
    instances: dict[str, Instance]
    silent: list[str] = field(default_factory=list)


def take(stack: RunningStack, proxy_url: str, instances: Mapping[str, str], at: float) -> Sample:
    """`instances`: name to URL."""
    silent: list[str] = []

    def ask(who: str, question: Callable[[], T]) -> T | None:
        try:
            return question()
        except Unreachable as error:
            silent.append(f"{who}: {error}")
            return None

    def instance(url: str) -> Instance:
        return instance_in(stack.read(f"{url}/metrics"))

    with ThreadPoolExecutor(max_workers=2 + len(instances)) as pool:  # one that is silent must not delay the others
        members = pool.submit(ask, "memory", stack.members)
        requests = pool.submit(ask, "proxy", lambda: requests_in(stack.read(f"{proxy_url}/metrics")))
        asked = {name: pool.submit(ask, name, partial(instance, url)) for name, url in instances.items()}
    found = members.result() or []
    return Sample(
        at,
        memory={member.name: member.memory for member in found},
        identities={member.name: member.identity for member in found},
        requests=requests.result(),
        instances={name: seen for name, one in asked.items() if (seen := one.result()) is not None},
        silent=sorted(silent),
    )


def instance_urls(stack: RunningStack, proxy_url: str) -> dict[str, str]:
    """Name to URL of all that the proxy knows. Raises: Unreachable."""
    known = json.loads(stack.read(f"{proxy_url}/instances"))["instances"]
    by_role: dict[str, set[str]] = {}
    for instance in known:  # of one server each data-parallel engine is one
        by_role.setdefault(instance["role"], set()).add(instance["url"])
    return {f"{role}-{index}": url for role, urls in by_role.items() for index, url in enumerate(sorted(urls))}


def requests_in(exposition: str) -> Requests:
    """From the proxy's /metrics."""
    by_outcome: dict[str, int] = {}
    in_flight = 0.0
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.name == "pd_proxy_requests_total" and sample.labels["endpoint"] in COMPLETIONS:
                outcome = sample.labels["outcome"]
                by_outcome[outcome] = by_outcome.get(outcome, 0) + int(sample.value)
            elif sample.name == "pd_proxy_requests_in_flight":
                in_flight += sample.value
    return Requests(by_outcome.pop("ok", 0), by_outcome, int(in_flight))


def instance_in(exposition: str) -> Instance:
    """From the /metrics of vLLM with our connector; the values of several engines are added."""
    totals: dict[str, float] = {}
    all_blocks, used = 0.0, 0.0
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
            if sample.name == "vllm:cache_config_info":
                all_blocks = float(sample.labels["num_gpu_blocks"])
            elif sample.name == "vllm:kv_cache_usage_perc":
                used += sample.value
    return Instance(
        running=int(totals.get("vllm:num_requests_running", 0)),
        waiting=int(totals.get("vllm:num_requests_waiting", 0)),
        blocks=round(used * all_blocks),
        preemptions=int(totals.get("vllm:num_preemptions_total", 0)),
        failed_transfers=int(totals.get("pd_kv_failed_shares_total", 0)),
    )
