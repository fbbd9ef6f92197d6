"""What the two sides of the connector tell each other through vLLM: the scheduler at each step, each rank of itself."""

from dataclasses import dataclass

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)

from connector.control.messages import Done
from connector.scheduling.steps import ConsumerStep, ProducerStep, RankAddress


@dataclass(frozen=True)
class StepMetadata(KVConnectorMetadata):
    step: ProducerStep | ConsumerStep


@dataclass(frozen=True)
class RankMetadata(KVConnectorHandshakeMetadata):
    address: RankAddress


@dataclass(frozen=True)
class Received(KVConnectorWorkerMetadata):
    """By request id, the facts of each rank's part of a transfer that arrived whole in this step; and by rank the
    names under which its memory is reached from now on."""

    done: dict[str, list[Done]]
    segments: dict[int, dict[str, str]]

    def aggregate(self, other: KVConnectorWorkerMetadata) -> "Received":
        assert isinstance(other, Received)
        requests = self.done.keys() | other.done.keys()
        return Received(
            {name: [*self.done.get(name, []), *other.done.get(name, [])] for name in requests},
            self.segments | other.segments,
        )
