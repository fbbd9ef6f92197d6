"""The variables that one instance's launcher reads."""

import shlex
import socket
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from stack import etcd
from stack.configuration.environment import Settings
from stack.instances.data_parallel import DataParallel, data_parallel_of
from stack.instances.mooncake_config import MooncakeConfig, Protocol, load_mooncake_config
from stack.instances.record import Role
from stack.network import addresses
from stack.network.addresses import CollectorUrl, ListenHost, OwnHost
from stack.store import cluster

EMBEDDED_MODEL = "SmolLM2-135M-Instruct"
PORTS_PER_INSTANCE = 16  # control ports of neighbouring instances on one host: room for 16 ranks each
SHORTEST_SECRET = 16  # characters; ControlKey refuses less
ROLES: dict[str, Role] = {"producer": "prefill", "consumer": "decode", "aggregated": "aggregated"}
WITHOUT_EFFECT = ("VLLM_PORT", "MASTER_ADDR", "MASTER_PORT")


class LauncherSettings(Settings):
    """Sizes in the units their names say; times in seconds."""

    vllm_distributed_kv_role: Literal["producer", "consumer", "aggregated"]
    instance_index: int = Field(default=0, ge=0)
    vllm_host_ip: OwnHost = ""
    listen_host: ListenHost = ""
    prefill_port: int = Field(default=8100, ge=1, le=65535)
    decode_port: int = Field(default=8200, ge=1, le=65535)
    aggregated_port: int = Field(default=8100, ge=1, le=65535)
    control_port: int = Field(default=0, ge=0, le=65535)

    model: str = EMBEDDED_MODEL
    served_model_name: str = ""
    model_dir: Path = Path(".stack/models")
    max_model_len: int = Field(default=4096, ge=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    block_size: int = Field(default=32, ge=1)
    kv_cache_bytes: int = Field(default=512 << 20, ge=1 << 20)
    max_num_batched_tokens: int = Field(default=2048, ge=32)
    tensor_parallel_size: int = Field(default=1, ge=1, le=PORTS_PER_INSTANCE)
    pipeline_parallel_size: int = Field(default=1, ge=1, le=PORTS_PER_INSTANCE)
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    vllm_extra_args: str = ""
    prefill_vllm_extra_args: str = ""
    decode_vllm_extra_args: str = ""
    openai_api_key: str = ""

    etcd_endpoint: etcd.Endpoint = ""
    mooncake_config_path: Path | None = None
    mooncake_protocol: Protocol = "tcp"
    mooncake_device_name: str = ""
    kv_streaming: Literal["layer", "chunk"] = "layer"
    kv_stream_min_tokens: int | None = Field(default=None, ge=0)
    kv_load_failure_policy: Literal["recompute", "fail"] = "recompute"
    transfer_timeout_s: float = Field(default=60.0, gt=0)
    transfer_patience_s: float = Field(default=30.0, gt=0)
    transfer_cancel_timeout_s: float = Field(default=35.0, ge=10)
    transfer_checksum: bool = False
    transfer_first_token: bool = True
    store_master: str = ""
    store_masters: int = Field(default=1, ge=1, le=2)
    store_lookup_timeout_s: float = Field(default=0.03, gt=0, le=1)
    store_load_timeout_s: float = Field(default=5.0, gt=0)
    store_load_min_tokens: int | None = Field(default=None, ge=0)
    stack_key: str = ""
    stack_key_file: Path = Field(default=Path(".stack/stack.key"), validate_default=True)

    otel_exporter_otlp_endpoint: CollectorUrl = ""

    lease_ttl_s: int = Field(default=5, ge=2)
    shutdown_grace_s: float = Field(default=30.0, ge=0)

    @field_validator("vllm_extra_args", "prefill_vllm_extra_args", "decode_vllm_extra_args")
    @classmethod
    def _words(cls, value: str) -> str:
        shlex.split(value)
        return value

    @field_validator("store_master")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        if value.startswith(cluster.SCHEME):
            etcd.address(value)
        elif value:
            try:
                addresses.split(value)
            except ValueError as error:
                raise ValueError(
                    f"expected host:port of a mooncake_master, e.g. 127.0.0.1:50051, or etcd://host:port where two of "
                    f"them stand by for each other; {error}"
                ) from error
        return value

    @field_validator("mooncake_config_path")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value is not None:
            load_mooncake_config(value)
        return value

    @field_validator("stack_key_file")
    @classmethod
    def _key_is_there(cls, value: Path, others: ValidationInfo) -> Path:
        needed = others.data.get("vllm_distributed_kv_role") != "aggregated" and not others.data.get("stack_key")
        if needed and not value.is_file():
            raise ValueError(
                "is no file, and STACK_KEY is unset: "
                "run `python -m stack.prepare`, or set the same STACK_KEY on every host"
            )
        return value

    @model_validator(mode="after")
    def _secret_is_long_enough(self) -> Self:
        if self.has_connector and len(self.secret) < SHORTEST_SECRET:
            name = "STACK_KEY" if self.stack_key else f"STACK_KEY_FILE={str(self.stack_key_file)!r}"
            raise ValueError(
                f"{name}: the key has {len(self.secret)} characters, expected {SHORTEST_SECRET} or more: "
                "make one with `openssl rand -hex 32`"
            )
        return self

    @model_validator(mode="after")
    def _a_load_leaves_time_for_the_transfer(self) -> Self:
        """The consumer waits all along, and the prompt still has to be computed after a load that was given up."""
        if self.store_master and self.store_load_timeout_s > self.transfer_timeout_s / 2:
            raise ValueError(
                f"STORE_LOAD_TIMEOUT_S={self.store_load_timeout_s:g}: expected at most half of "
                f"TRANSFER_TIMEOUT_S={self.transfer_timeout_s:g}"
            )
        return self

    @model_validator(mode="after")
    def _engines_can_be_served(self) -> Self:
        """Of either role: the doctor asks once for both."""
        for role in dict.fromkeys(("prefill", "decode", self.role)):
            words, variable = self._words_of(role)
            try:
                engines = data_parallel_of(words)
            except ValueError as error:
                shown = addresses.without_password(shlex.join(words))
                raise ValueError(f"{variable}={shown!r}: {error}") from error
            if (ranks := engines.local * self.ranks) > PORTS_PER_INSTANCE:
                raise ValueError(
                    f"TENSOR_PARALLEL_SIZE={self.tensor_parallel_size}, "
                    f"PIPELINE_PARALLEL_SIZE={self.pipeline_parallel_size}: with {engines.local} data-parallel engines "
                    f"here ({variable}) these are {ranks} ranks, expected {PORTS_PER_INSTANCE} or fewer"
                )
        return self

    @model_validator(mode="after")
    def _ports_exist(self) -> Self:
        last = max((self.port, *self.control_ports))
        if last > 65535:
            control = f", control port {self._control[1]}" if self.has_connector else ""
            raise ValueError(
                f"INSTANCE_INDEX={self.instance_index}: expected ports up to 65535, but with {self.role} on port "
                f"{self.port - self.instance_index}{control} and {self.ranks} ranks "
                f"(TENSOR_PARALLEL_SIZE, PIPELINE_PARALLEL_SIZE) the last one is {last}"
            )
        return self

    @property
    def role(self) -> Role:
        return ROLES[self.vllm_distributed_kv_role]

    @property
    def has_connector(self) -> bool:
        """Whether the server exchanges KV cache with others; an aggregated one is vLLM alone."""
        return self.role != "aggregated"

    @property
    def port(self) -> int:
        """Of the OpenAI API."""
        first = {"prefill": self.prefill_port, "decode": self.decode_port, "aggregated": self.aggregated_port}
        return first[self.role] + self.instance_index

    @property
    def mooncake(self) -> MooncakeConfig:
        """The seed document's settings: from its file when there is one, else from variables of the same meaning."""
        if self.mooncake_config_path is not None:
            return load_mooncake_config(self.mooncake_config_path)
        host = self.vllm_host_ip or _own_address()
        return MooncakeConfig(
            prefill_url=addresses.join(host, self.control_port or 13003),
            decode_url=addresses.join(host, self.control_port or 13503),
            metadata_server=etcd.authority(self.etcd_endpoint or "127.0.0.1"),
            protocol=self.mooncake_protocol,
            device_name=self.mooncake_device_name,
        )

    @property
    def etcd(self) -> str:
        """The etcd to register in: with a `mooncake.json` alone, the one that it names for the metadata."""
        return self.etcd_endpoint or self.mooncake.metadata_server

    @property
    def store_address(self) -> str:
        """What Mooncake's clients are told of the store: its one master, or the etcd where two have their leader."""
        if self.store_master and self.store_masters > 1 and not self.store_master.startswith(cluster.SCHEME):
            return cluster.address(self.etcd)
        return self.store_master

    @property
    def host(self) -> str:
        """The address that other instances and the proxy reach this one at.

        Raises: ValueError: it is a name in `mooncake.json` that stands for no address.
        """
        return self.vllm_host_ip or (addresses.numeric(self._control[0]) if self.has_connector else _own_address())

    @property
    def ranks(self) -> int:
        """Of one engine, each with a process, or a GPU, of its own."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def control_ports(self) -> range:
        """Of this instance's ranks, in their order; those of one engine are neighbours."""
        if not self.has_connector:
            return range(0)
        first = self._control[1] + self.instance_index * PORTS_PER_INSTANCE
        return range(first, first + self.data_parallel.local * self.ranks)

    @property
    def _control(self) -> tuple[str, int]:
        mooncake = self.mooncake
        return addresses.split(mooncake.prefill_url if self.role == "prefill" else mooncake.decode_url)

    @property
    def extra_words(self) -> list[str]:
        """More arguments of vLLM: those for all instances, then those of this role."""
        return self._words_of(self.role)[0]

    @property
    def extra_variable(self) -> str:
        """Which has them, or the last of them."""
        return self._words_of(self.role)[1]

    @property
    def data_parallel(self) -> DataParallel:
        return data_parallel_of(self.extra_words)

    def _words_of(self, role: str) -> tuple[list[str], str]:
        """And the variable that has the last of them."""
        own = {"prefill": self.prefill_vllm_extra_args, "decode": self.decode_vllm_extra_args}.get(role, "")
        variable = f"{role.upper()}_VLLM_EXTRA_ARGS" if own else "VLLM_EXTRA_ARGS"
        return shlex.split(self.vllm_extra_args) + shlex.split(own), variable

    @property
    def model_path(self) -> str:
        """What vLLM loads: the prepared folder for the embedded model, else the folder or hub id as it is given."""
        return str(self.model_dir / EMBEDDED_MODEL) if self.model == EMBEDDED_MODEL else self.model

    @property
    def served_name(self) -> str:
        return self.served_model_name or self.model

    @property
    def secret(self) -> str:
        return (self.stack_key or self.stack_key_file.read_text()).strip()


def _own_address() -> str:
    """The address of this host's or container's own name; loopback where that name does not resolve."""
    try:
        return addresses.look_up(socket.gethostname())
    except ValueError:
        return "127.0.0.1"
