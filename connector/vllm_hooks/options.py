"""The connector's part of `kv_connector_extra_config`, as the launcher writes it and vLLM's processes read it."""

import os
from typing import TYPE_CHECKING, Any

import msgspec

from connector.control.channel import Channel
from connector.control.control_key import ControlKey
from connector.mooncake.transports import AUTO, TRANSPORTS

if TYPE_CHECKING:
    from vllm.config import ParallelConfig


class ConnectorOptions(msgspec.Struct, frozen=True):
    """Times in seconds. The stack's key is not among them, because vLLM logs its configuration: it is STACK_KEY."""

    host: str  # address that peers reach this instance at
    # Of rank 0 of the first engine; rank n listens on control_port + n, those of a pipeline's first stage first, and
    # the next engine's behind them.
    control_port: int
    metadata_server: str  # host:port of etcd
    transport: str  # one of TRANSPORTS, or auto
    pairing: str  # what two instances must have in common beside the layout of their caches
    pipeline_parallel_size: int = 1  # as peers are told it
    data_parallel: tuple[int, int] = (0, 0)  # ranks of this server's engines, the last not included; (0, 0): it has one
    device_name: str = ""
    layerwise: bool = False  # push layer by layer inside a step, not only at its end (producers)
    min_stream_tokens: int | None = None  # a step of fewer prompt tokens pushes all layers at once; None: by transport
    checksum: bool = False  # compare what arrived with what was sent
    patience: float = 30.0
    timeout: float = 60.0
    cancel_timeout: float = 35.0  # after which a consumer takes its blocks back from a silent producer
    sender_threads: int = 4

    @classmethod
    def from_extra_config(cls, extra_config: dict[str, Any]) -> "ConnectorOptions":
        """Raises: ValueError: naming the key that is missing or cannot work."""
        try:
            options = msgspec.convert(extra_config, cls)
        except msgspec.ValidationError as error:
            raise ValueError(f"kv_connector_extra_config: {error}") from error
        if options.transport not in (AUTO, *TRANSPORTS):
            raise ValueError(f"transport={options.transport!r}: expected one of {', '.join((AUTO, *TRANSPORTS))}")
        return options

    def refuse_other_stages(self, stages: int) -> None:
        """Raises: ValueError: vLLM has another number of stages than peers are told, who ask each of them."""
        if stages != self.pipeline_parallel_size:
            raise ValueError(
                f"pipeline_parallel_size={stages}: expected {self.pipeline_parallel_size}, which peers are told: "
                f"set PIPELINE_PARALLEL_SIZE={stages} and leave it out of VLLM_EXTRA_ARGS"
            )

    def of_engine(self, parallel: "ParallelConfig", engine_id: str) -> "ConnectorOptions":
        """Those of one engine, whose ranks listen behind those of the engines before it.

        What a dense model's engine says of itself has no size any more, only its index, and the id that vLLM has
        changed (v1/engine/core.py, run_engine_core).
        Raises: ValueError: the launcher, and so etcd and other engines, know nothing of this one.
        """
        index, (first, end) = parallel.data_parallel_index, self.data_parallel
        has_rank = engine_id.endswith(f"_dp{index}")
        if not (first <= index < end if has_rank else first == end):
            raise ValueError(
                f"data-parallel engine {engine_id}: expected one of {list(range(first, end))}, as VLLM_EXTRA_ARGS has "
                "told the launcher; give --data-parallel-size there"
            )
        if not has_rank:
            return self
        return msgspec.structs.replace(self, control_port=self.control_port + (index - first) * parallel.world_size)

    @property
    def write_timeout(self) -> float:
        """A write ends before the consumer can take its blocks back: those could still be written to otherwise."""
        return self.cancel_timeout - 5

    def open_channel(self, port: int) -> Channel:
        """A control channel with the stack's key. Raises: ValueError: when STACK_KEY is unset or too short."""
        return Channel(self.host, port, ControlKey.from_secret(os.environ.get("STACK_KEY", "")))
