"""A plain server, a producer that is a pipeline, and consumers of several shapes, all of one model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stack.instances.record import Role
from tests.integration.caches import models
from tests.integration.caches.servers import COMMON, MOST_REQUESTS, Trio
from tests.tiny_servers.instances import Fleet, Server, Serving

LENGTHS = [1, 31, 32, 33, 64, 65, 127, 128, 129, 159, 160, 161, 300, 700]


@dataclass(frozen=True)
class Shape:
    """Stages of a pipeline, each of so many ranks. partition: layers of each stage, where vLLM shall not choose."""

    stages: int = 1
    ranks: int = 1
    partition: str = ""

    def __str__(self) -> str:
        return f"PP {self.stages}, TP {self.ranks}"


def started(
    fleet: Fleet,
    models_folder: Path,
    name: str,
    producer: Shape,
    consumers: Sequence[Shape],
    more: Mapping[str, str] | None = None,
) -> dict[Shape, Trio]:
    """By the consumer's shape; plain server and producer are the same. more: variables of the launcher."""
    served = models.BY_NAME[name]

    def start(role: Role, shape: Shape) -> Server:
        variables = COMMON | {"MAX_NUM_BATCHED_TOKENS": str(served.step_tokens)} | dict(more or {})
        if shape.partition:
            variables["VLLM_PP_LAYER_PARTITION"] = shape.partition
        arguments = f"{served.arguments} --max-num-seqs {MOST_REQUESTS}"
        serving = Serving(models_folder / name, served.block_size, served.dtype, arguments, variables)
        return fleet.start(role, serving, shape.ranks, shape.stages)

    plain, first = start("aggregated", Shape()), start("prefill", producer)
    trios = {shape: Trio(served, plain, first, start("decode", shape)) for shape in consumers}
    fleet.wait()
    return trios
