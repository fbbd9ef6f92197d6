"""The record that each vLLM instance keeps in etcd, and under which key.

The launcher writes it under a lease once `/health` answers; the proxy reads it. `kv_transfer` is opaque to the proxy:
it hands the producer's copy to the consumer, whose connector alone knows what it means.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

# aggregated: a server without the connector, which serves whole requests
Role = Literal["prefill", "decode", "aggregated"]
PREFIX = "/pd/v1/instances/"


class Adapter(BaseModel):
    """A LoRA adapter as vLLM lists it: its name, its folder, and the name of the model that it changes.

    identity: of its weights; two instances share a cache that was computed with it only when theirs are equal.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    root: str
    parent: str
    identity: str = ""


class Instance(BaseModel):
    """One running vLLM server. Times are Unix seconds; `block_size` is in tokens."""

    model_config = ConfigDict(frozen=True)

    role: Role
    instance_id: str  # new at every start, so that a restarted server is a new instance
    url: str  # http://host:port of the OpenAI API
    served_models: tuple[str, ...]
    adapters: tuple[Adapter, ...] = ()  # those of the served models that are adapters
    models: tuple[dict[str, Any], ...] = ()  # each served model as vLLM's /v1/models has it
    model: str
    max_model_len: int
    block_size: int
    dtype: str
    tensor_parallel_size: int
    fingerprint: str  # hash over `pairing`; instances pair only when theirs are equal
    pairing: dict[str, str] = {}  # facts of model, weights, type and blocks by their names, to say what differs
    kv_transfer: dict[str, Any]  # empty for an aggregated instance
    transports: tuple[str, ...] = ()  # over which its KV cache can move, best first; none for an aggregated instance
    vllm_version: str
    connector_version: str
    started_at: float

    @property
    def key(self) -> str:
        return f"{PREFIX}{self.role}/{self.instance_id}"
