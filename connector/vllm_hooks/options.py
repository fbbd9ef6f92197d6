"""The connector's part of `kv_connector_extra_config`, as the launcher writes it and vLLM's processes read it."""

import os
from typing import Any

import msgspec

from connector.control.channel import Channel
from connector.control.control_key import ControlKey
from connector.mooncake.transports import AUTO, TRANSPORTS


class ConnectorOptions(msgspec.Struct, frozen=True):
    """Times in seconds. The stack's key is not among them, because vLLM logs its configuration: it is STACK_KEY."""

    host: str  # address that peers reach this instance at
    control_port: int  # of rank 0; rank n listens on control_port + n, those of a pipeline's first stage first
    metadata_server: str  # host:port of etcd
    transport: str  # one of TRANSPORTS, or auto
    pairing: str  # what two instances must have in common beside the layout of their caches
    pipeline_parallel_size: int = 1  # as peers are told it
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

    @property
    def write_timeout(self) -> float:
        """A write ends before the consumer can take its blocks back: those could still be written to otherwise."""
        return self.cancel_timeout - 5

    def open_channel(self, port: int) -> Channel:
        """A control channel with the stack's key. Raises: ValueError: when STACK_KEY is unset or too short."""
        return Channel(self.host, port, ControlKey.from_secret(os.environ.get("STACK_KEY", "")))
