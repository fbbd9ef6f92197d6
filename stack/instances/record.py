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


class Engine(BaseModel):
    """One of the data-parallel engines of a server: all of the model, and a KV cache of its own.

    rank: among the engines of all servers that belong together. pin: what X-data-parallel-rank says for it; None where
    the server has no other one. kv_transfer: as an instance's.
    """

    model_config = ConfigDict(frozen=True)

    rank: int
    pin: int | None = None
    kv_transfer: dict[str, Any] = {}


class Instance(BaseModel):
    """One running vLLM server. Times are Unix seconds; `block_size` is in tokens.

    A server of data-parallel engines has one record, which lists them. What requests are sent to is each of these for
    itself: `by_engine`.
    """

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
    pipeline_parallel_size: int = 1
    fingerprint: str  # hash over `pairing`; instances pair only when theirs are equal
    pairing: dict[str, str] = {}  # facts of model, weights, type and blocks by their names, to say what differs
    kv_transfer: dict[str, Any]  # empty for an aggregated instance, and where the engines have theirs
    engines: tuple[Engine, ...] = ()  # of a server with data parallelism
    store: str = ""  # a KV store that instances share, and what its keys begin with: equal ones find the same there
    transports: tuple[str, ...] = ()  # over which its KV cache can move, best first; none for an aggregated instance
    vllm_version: str
    connector_version: str
    started_at: float
    server_id: str = ""  # of one engine: the instance id of its server's record

    @property
    def server(self) -> str:
        """The instance id of the record, which engines of one server have in common."""
        return self.server_id or self.instance_id

    @property
    def key(self) -> str:
        return f"{PREFIX}{self.role}/{self.server}"

    @property
    def data_parallel_rank(self) -> int | None:
        return self._engine.rank if self._engine else None

    @property
    def pin(self) -> int | None:
        """What a request to it says as X-data-parallel-rank, if anything."""
        return self._engine.pin if self._engine else None

    def by_engine(self) -> tuple["Instance", ...]:
        """One for each of its engines, under the name that vLLM gives that engine; itself where it lists none."""
        if not self.engines:
            return (self,)
        return tuple(
            self.model_copy(
                update={
                    "instance_id": engine_id(self.instance_id, engine.rank),
                    "server_id": self.instance_id,
                    "engines": (engine,),
                    "kv_transfer": engine.kv_transfer,
                }
            )
            for engine in self.engines
        )

    @property
    def _engine(self) -> Engine | None:
        return self.engines[0] if self.server_id else None


def engine_id(instance_id: str, rank: int) -> str:
    """As vLLM names its data-parallel engines (v1/engine/core.py, `run_engine_core`)."""
    return f"{instance_id}_dp{rank}"
