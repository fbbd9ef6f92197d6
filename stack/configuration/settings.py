"""Settings of the stack as a whole: which way it runs, where its state lies, which ports and replicas it has.

Relative paths count from the repository's root, so that every command means the same folder wherever it is started.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import NoDecode

from stack import etcd
from stack.configuration.environment import Settings
from stack.network import addresses
from stack.network.addresses import ListenHost, OwnHost

REPOSITORY = Path(__file__).resolve().parents[2]
SERVICES = ("etcd", "prefill", "decode", "proxy", "loadtest")
# What compose.observability.yaml adds, as processes only the first.
OBSERVABILITY = ("prometheus", "grafana", "tempo", "collector")
STORE = ("store-master", "store")  # what compose.store.yaml adds, or STACK_STORE as processes
SMALLEST_STORE_DISK = 64 << 20
EMBEDDED_MODEL = "SmolLM2-135M-Instruct"
# A Unix socket's path has 107 usable bytes; supervisord binds `run/supervisor.sock.<pid>` first.
LONGEST_STACK_DIR = 107 - len("/run/supervisor.sock.1234567")


def _from_repository(value: object) -> object:
    return REPOSITORY / Path(str(value)).expanduser()


def _comma_separated(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


RepositoryPath = Annotated[Path, BeforeValidator(_from_repository)]
Port = Annotated[int, Field(ge=1, le=65535)]


class StackSettings(Settings):
    """Variables that concern more than one part. Each part's own are in `<part>/settings.py`."""

    compose_file: str = "compose.yaml"
    stack_mode: Literal["auto", "docker", "processes"] = "auto"
    stack_services: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_separated)] = SERVICES
    stack_start_timeout_s: float = Field(default=900.0, gt=0)

    stack_dir: RepositoryPath = REPOSITORY / ".stack"
    stack_venv_dir: RepositoryPath | None = None
    model_dir: RepositoryPath | None = None
    stack_key_file: RepositoryPath | None = None
    stack_key: str | None = None

    model: str = EMBEDDED_MODEL
    served_model_name: str | None = None

    bind_address: ListenHost = "127.0.0.1"
    proxy_port: Port = 8000
    locust_port: Port = 8089
    prometheus_port: Port = 9090
    grafana_port: Port = 3000
    prometheus_key_file: RepositoryPath | None = None
    etcd_port: Port = 2379
    prefill_port: Port = 8100
    decode_port: Port = 8200
    control_port: int = Field(default=0, ge=0, le=65535)
    prefill_replicas: int = Field(default=1, ge=0, le=16)
    decode_replicas: int = Field(default=1, ge=0, le=16)
    loadtest_workers: int = Field(default=1, ge=1, le=256)
    etcd_endpoint: etcd.Endpoint | None = None
    stack_store: bool = False
    store_master: str = ""
    store_port: Port = 50051
    store_bytes: int = Field(default=1 << 30, ge=64 << 20)
    store_masters: int = Field(default=1, ge=1, le=2)
    store_disk_bytes: int = Field(default=0, ge=0)
    vllm_host_ip: OwnHost = ""
    listen_host: ListenHost = ""
    prefill_gpu: str = "0"
    decode_gpu: str = "1"

    shutdown_grace_s: float = Field(default=30.0, ge=0)
    proxy_shutdown_grace_s: float = Field(default=30.0, gt=0)

    @field_validator("stack_dir")
    @classmethod
    def _suits_supervisord(cls, value: Path) -> Path:
        if len(str(value).encode()) > LONGEST_STACK_DIR:
            raise ValueError(f"expected a path of at most {LONGEST_STACK_DIR} bytes, it holds a Unix socket")
        if "%" in str(value):
            raise ValueError("expected a path without %, which supervisord would expand")
        return value

    @field_validator("store_disk_bytes")
    @classmethod
    def _holds_some_files(cls, value: int) -> int:
        if 0 < value < SMALLEST_STORE_DISK:
            raise ValueError(f"expected 0 for none, or at least {SMALLEST_STORE_DISK}")
        return value

    @field_validator("stack_services")
    @classmethod
    def _known_services(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or set(value) - set(SERVICES):
            raise ValueError(f"expected a comma-separated choice of {', '.join(SERVICES)}")
        return value

    @property
    def venvs(self) -> Path:
        return self.stack_venv_dir or self.stack_dir / "venv"

    @property
    def models(self) -> Path:
        return self.model_dir or self.stack_dir / "models"

    @property
    def key_file(self) -> Path:
        return self.stack_key_file or self.stack_dir / "stack.key"

    @property
    def model_name(self) -> str:
        """The name that a client puts into `model`."""
        return self.served_model_name or self.model

    @property
    def etcd(self) -> str:
        return self.etcd_endpoint or addresses.join(self.host_ip, self.etcd_port)

    @property
    def host_ip(self) -> str:
        """The address at which other instances reach those of this machine."""
        return self.vllm_host_ip or "127.0.0.1"

    @property
    def overlays(self) -> tuple[str, ...]:
        """File names of COMPOSE_FILE, e.g. ("compose.yaml", "compose.gpu.yaml"); they count in both ways."""
        return tuple(Path(part).name for part in self.compose_file.split(":") if part)

    @property
    def uses_gpu(self) -> bool:
        return "compose.gpu.yaml" in self.overlays

    @property
    def is_baseline(self) -> bool:
        """Whether both instance services run aggregated servers."""
        return "compose.baseline.yaml" in self.overlays

    @property
    def is_observed(self) -> bool:
        """Whether Prometheus runs beside the proxy."""
        return "compose.observability.yaml" in self.overlays and "proxy" in self.stack_services

    @property
    def has_store(self) -> bool:
        """Whether a KV store's programs run here: beside instances, whose environment they are in."""
        asked_for = self.stack_store or "compose.store.yaml" in self.overlays
        return asked_for and bool({"prefill", "decode"} & set(self.stack_services))

    @property
    def store_disk(self) -> Path | None:
        """Where the owner of a KV store keeps what does not fit into its memory, if anywhere."""
        return self.stack_dir / "store" if self.store_disk_bytes else None

    @property
    def client_host(self) -> str:
        """The address at which this machine reaches what listens on BIND_ADDRESS."""
        return addresses.reachable(self.bind_address)

    @property
    def proxy_url(self) -> str:
        return addresses.http_url(self.client_host, self.proxy_port)

    @property
    def instance_host(self) -> str:
        """The address at which this machine reaches its own instances."""
        return addresses.reachable(self.listen_host or self.host_ip)
