"""The proxy's variables: `PROXY_*`, and those it shares with the rest of the stack."""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from proxy.http.cors import ANY, Cors
from proxy.request.access import ClientKeys, read_client_keys
from proxy.routing.dispatch import NoProducer
from proxy.routing.prefill_order import Order
from stack import etcd
from stack.configuration.environment import Settings
from stack.network import addresses
from stack.network.addresses import CollectorUrl, ListenHost

DEFAULT_PORT = 8000


def _cors_origins(value: str) -> str:
    Cors(value)
    return value


def _peers(value: str) -> str:
    for name in _listed(value):
        try:
            addresses.split(name, DEFAULT_PORT)
        except ValueError as error:
            raise ValueError(f"expected host:port, with commas, e.g. proxy-1:8000,proxy-2:8000; {error}") from error
    return value


def _listed(value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]


Seconds = Annotated[float, Field(gt=0)]


class ProxySettings(Settings):
    """Field `proxy_port` is the variable `PROXY_PORT`; times are in seconds."""

    etcd_endpoint: etcd.Endpoint = "127.0.0.1:2379"
    openai_api_key: SecretStr | None = None  # what vLLM demands; a client's own Authorization is never passed on

    proxy_api_keys: SecretStr | None = None
    proxy_api_keys_file: Path | None = None

    proxy_cors_origins: Annotated[str, AfterValidator(_cors_origins)] = ANY

    bind_address: ListenHost = "127.0.0.1"
    # In a container the proxy listens on every address of the container while compose publishes BIND_ADDRESS.
    proxy_listen_host: ListenHost | None = None
    proxy_port: int = Field(8000, ge=1, le=65535)
    proxy_workers: int = Field(1, ge=1, le=64)

    # Where, on a CPU, a running stream waits as long for such a prompt as a transfer makes its first token wait:
    # docs/benchmarks/README.md.
    proxy_local_prompt_tokens: int = Field(96, ge=0)
    proxy_prefill_order: Order = "shortest"
    # Other proxies before the same instances, which are asked what they have in hand there.
    proxy_peers: Annotated[str, AfterValidator(_peers)] = ""
    proxy_no_producer: NoProducer = "refuse"
    proxy_connect_timeout_s: Seconds = 3.0
    proxy_first_token_timeout_s: Seconds = 300.0  # prefill of a long prompt behind a queue, on a CPU
    proxy_token_timeout_s: Seconds = 60.0
    proxy_request_timeout_s: Seconds = 3600.0
    # Well below the minute after which load balancers end a silent connection, and long enough for most failures to be
    # known, which until then have a status of their own. 0: never.
    proxy_stream_keepalive_s: float = Field(20.0, ge=0)
    proxy_shutdown_grace_s: Seconds = 30.0
    proxy_breaker_failures: int = Field(3, ge=1)
    proxy_breaker_cooldown_s: Seconds = 5.0
    # What one process serves with its 512 MB, and so many tokens as instances do not prefill within the first token's
    # deadline: whoever had to wait behind more would wait in vain.
    proxy_max_running_requests: int = Field(2048, ge=1)
    proxy_max_running_tokens: int | None = Field(None, ge=1)
    proxy_max_queued_requests: int = Field(1024, ge=0)
    proxy_max_queued_tokens: int | None = Field(4_000_000, ge=1)
    proxy_ttft_slo_s: Seconds | None = None
    # What a stream has to keep to count as good in `pd_proxy_streams_total`; nothing is refused for them. MLPerf
    # Inference's for a 70B chat server, as LOADTEST_SLO_TTFT_S and LOADTEST_SLO_TPOT_S.
    proxy_goodput_ttft_s: Seconds = 2.0
    proxy_goodput_tpot_s: Seconds = 0.2

    # Clients that are served or wait, and some that keep a connection. The rest of 512 MB is for bodies: Python needs a
    # few times their size while it reads them.
    proxy_max_connections: int = Field(4096, ge=1)
    # Longer than the pools of clients keep a connection, so that it is not the server that closes one just when a
    # request is under way: Go and reqwest 90 s, LiteLLM 120 s, Apache's HttpClient 180 s, OkHttp 300 s. A header
    # `Keep-Alive` would not do: of these only Apache's looks at it.
    proxy_idle_timeout_s: Seconds = 330.0
    proxy_max_head_bytes: int = Field(64 * 1024, ge=1024)
    proxy_head_timeout_s: Seconds = 20.0
    proxy_max_body_bytes: int = Field(32 * 1024 * 1024, ge=1024)
    proxy_max_buffered_bytes: int = Field(128 * 1024 * 1024, ge=1024)
    proxy_body_timeout_s: Seconds = 60.0
    proxy_max_prompts: int = Field(256, ge=1)
    otel_exporter_otlp_endpoint: CollectorUrl | None = None
    # For the console's links: the load test's page is on the host at which the console is, its runs perhaps here.
    # 0: there is none, as on Kubernetes.
    locust_port: int = Field(8089, ge=0, le=65535)
    stack_dir: Path = Path(".stack")
    proxy_log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def runs_dir(self) -> Path:
        return self.stack_dir / "runs"

    @cached_property
    def client_keys(self) -> ClientKeys:
        return read_client_keys(self.proxy_api_keys, self.proxy_api_keys_file)

    @model_validator(mode="after")
    def _client_keys_can_be_read(self) -> Self:
        # Not a validator of the field: what is reported of a field shows its value.
        self.client_keys  # noqa: B018
        return self

    @model_validator(mode="after")
    def _the_largest_body_fits(self) -> Self:
        if self.proxy_max_buffered_bytes < self.proxy_max_body_bytes:
            expected = f"expected at least PROXY_MAX_BODY_BYTES={self.proxy_max_body_bytes}"
            raise ValueError(f"PROXY_MAX_BUFFERED_BYTES={self.proxy_max_buffered_bytes}: {expected}")
        return self

    @model_validator(mode="after")
    def _peers_are_asked_by_one_worker(self) -> Self:
        if self.proxy_peers and self.proxy_workers > 1:
            expected = (
                "expected PROXY_WORKERS=1: a peer would be told by one of them at a time; start more proxies instead"
            )
            raise ValueError(f"PROXY_PEERS={self.proxy_peers}: {expected}")
        return self

    @property
    def peers(self) -> list[tuple[str, int]]:
        return [addresses.split(name, DEFAULT_PORT) for name in _listed(self.proxy_peers)]

    @cached_property
    def cors(self) -> Cors:
        return Cors(self.proxy_cors_origins)

    @property
    def host(self) -> str:
        return self.proxy_listen_host or self.bind_address
