"""What the load test sends, to whom, and where Locust's page listens; every field is a variable of `.env`.

The workload fields are also options of Locust's command line and fields of its web form (see `locustfile.py`).
"""

from typing import Annotated, Literal

from pydantic import Field, HttpUrl, SecretStr, TypeAdapter, field_validator

from stack.environment import Settings

WorkloadName = Literal["curl", "fixed", "chat"]
Port = Annotated[int, Field(ge=1, le=65535)]
_HTTP_URL: TypeAdapter[HttpUrl] = TypeAdapter(HttpUrl)


class LoadTestSettings(Settings):
    """Lengths are in tokens, times in seconds."""

    loadtest_target: str | None = None  # unset: the proxy on this machine
    proxy_port: Port = 8000
    openai_api_key: SecretStr | None = None

    listen_host: str | None = None  # containers set 0.0.0.0; unset: BIND_ADDRESS
    bind_address: str = "127.0.0.1"
    locust_port: Port = 8089

    loadtest_workload: WorkloadName = "fixed"
    loadtest_model: str | None = None  # unset: the first model that the target lists
    loadtest_seed: int = 0
    loadtest_input_tokens: Annotated[int, Field(ge=1)] = 256
    loadtest_output_tokens: Annotated[int, Field(ge=1)] = 64
    loadtest_timeout_s: Annotated[float, Field(gt=0)] = 120.0  # longest silence before a request counts as failed
    loadtest_drain_s: Annotated[int, Field(ge=0)] = 30  # how long a stopped test waits for its open streams

    @field_validator("loadtest_target")
    @classmethod
    def _is_http_url(cls, value: str | None) -> str | None:
        if value is not None:
            _HTTP_URL.validate_python(value)
            return value.rstrip("/")
        return value

    @property
    def target(self) -> str:
        """Base URL of the OpenAI API under load, without `/v1`."""
        return self.loadtest_target or f"http://127.0.0.1:{self.proxy_port}"

    @property
    def web_host(self) -> str:
        return self.listen_host or self.bind_address
