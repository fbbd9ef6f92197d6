"""What the load test sends, to whom, and where Locust's page listens; every field is a variable of `.env`.

Those that one test may override are also options of Locust's command line and fields of its web form (`options.py`).
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from loadtest import lengths, stages
from loadtest.figures.slo import Slo
from stack.configuration.environment import Settings
from stack.configuration.settings import REPOSITORY, RepositoryPath
from stack.network import addresses
from stack.network.addresses import ListenHost

Arrivals = Literal["closed", "constant", "poisson", "gamma", "trace"]
WorkloadName = Literal["curl", "random", "chat", "trace", "prompts"]
Port = Annotated[int, Field(ge=1, le=65535)]
Bound = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class LoadTestSettings(Settings):
    """Lengths are in tokens, times in seconds."""

    loadtest_target: str | None = None  # unset: the proxy on this machine
    loadtest_tokenizer: str | None = None  # base URL whose /tokenize counts tokens; unset: the target
    proxy_port: Port = 8000
    openai_api_key: SecretStr | None = None

    listen_host: ListenHost | None = None  # containers set 0.0.0.0; unset: BIND_ADDRESS
    bind_address: ListenHost = "127.0.0.1"
    locust_port: Port = 8089
    console_port: Port | None = None  # of the proxy's page, on the host at which Locust's is; unset: no link to it

    loadtest_workload: WorkloadName = "random"
    loadtest_model: str | None = None  # unset: the first model that the target lists
    loadtest_seed: int = 0
    loadtest_input_tokens: str = "256"  # this and the next: a number or a distribution (lengths.py)
    loadtest_output_tokens: str = "64"
    loadtest_chat_turns: Annotated[int, Field(ge=1, le=200)] = 5
    loadtest_chat_sessions: Annotated[int, Field(ge=1)] = 32  # chats that go on side by side
    loadtest_trace_file: RepositoryPath | None = None
    loadtest_trace_time_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    loadtest_trace_length_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    loadtest_prompts_file: RepositoryPath | None = None
    loadtest_arrivals: Arrivals = "closed"
    loadtest_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0  # requests a second
    loadtest_burstiness: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0  # shape of the gamma distribution
    loadtest_stages: str | None = None  # unset: LOADTEST_RATE, or Locust's number of users
    loadtest_requests: Annotated[int, Field(ge=1)] | None = None  # unset: no limit
    loadtest_warmup_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    loadtest_cancel_rate: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of requests whose client leaves
    loadtest_cancel_after_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    loadtest_workers: Annotated[int, Field(ge=1, le=256)] = 1  # processes that make the requests
    # MLPerf Inference's bounds for a 70B chat server; a stall of twice the TPOT's bound is one that a reader notices.
    loadtest_slo_ttft_s: Bound = 2.0
    loadtest_slo_tpot_s: Bound = 0.2
    loadtest_slo_itl_s: Bound = 0.4  # for the mean of a request's worst 10 % of gaps
    loadtest_run_dir: RepositoryPath | None = None  # of one run; unset: a new folder in STACK_DIR/runs
    stack_dir: RepositoryPath = REPOSITORY / ".stack"
    loadtest_timeout_s: Annotated[float, Field(gt=0)] = 120.0  # longest silence before a request counts as failed
    loadtest_drain_s: Annotated[int, Field(ge=0)] = 30  # how long a stopped test waits for its open streams

    @field_validator("loadtest_target", "loadtest_tokenizer")
    @classmethod
    def _is_http_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = addresses.base_url(value, "a server's key belongs into OPENAI_API_KEY")
        if url.query is not None or url.fragment is not None:
            raise ValueError("expected a base URL, without a query and a fragment")
        return value.rstrip("/").removesuffix("/v1").rstrip("/")  # OpenAI's clients are given it with /v1

    @field_validator("loadtest_input_tokens", "loadtest_output_tokens", mode="before")
    @classmethod
    def _is_lengths(cls, value: object) -> str:
        lengths.parse(str(value))
        return str(value)

    @field_validator("loadtest_trace_file", "loadtest_prompts_file")
    @classmethod
    def _is_file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError("expected a file, found none")
        return value

    @field_validator("loadtest_stages")
    @classmethod
    def _is_stages(cls, value: str | None) -> str | None:
        if value is not None:
            stages.parse(value)
        return value

    @model_validator(mode="after")
    def _trace_has_its_own_rate(self) -> Self:
        if self.loadtest_arrivals == "trace" and self.loadtest_stages is not None:
            raise ValueError("LOADTEST_STAGES: with LOADTEST_ARRIVALS=trace the trace has the rate; unset one of them")
        return self

    @model_validator(mode="after")
    def _file_of_the_workload_is_given(self) -> Self:
        if self.loadtest_workload == "trace" and self.loadtest_trace_file is None:
            raise ValueError("LOADTEST_TRACE_FILE is unset: LOADTEST_WORKLOAD=trace replays this file")
        if self.loadtest_workload == "prompts" and self.loadtest_prompts_file is None:
            raise ValueError("LOADTEST_PROMPTS_FILE is unset: LOADTEST_WORKLOAD=prompts sends this file's prompts")
        return self

    @property
    def input_lengths(self) -> lengths.Lengths:
        return lengths.parse(self.loadtest_input_tokens)

    @property
    def output_lengths(self) -> lengths.Lengths:
        return lengths.parse(self.loadtest_output_tokens)

    @property
    def profile(self) -> stages.Stages | None:
        """LOADTEST_STAGES."""
        return None if self.loadtest_stages is None else stages.parse(self.loadtest_stages)

    @property
    def slo(self) -> Slo:
        return Slo(self.loadtest_slo_ttft_s, self.loadtest_slo_tpot_s, self.loadtest_slo_itl_s)

    @property
    def runs_dir(self) -> Path:
        """The folder that has the runs' folders."""
        return self.loadtest_run_dir.parent if self.loadtest_run_dir else self.stack_dir / "runs"

    @property
    def target(self) -> str:
        """Base URL of the OpenAI API under load, without `/v1`."""
        return self.loadtest_target or addresses.http_url(addresses.reachable(self.bind_address), self.proxy_port)

    @property
    def web_host(self) -> str:
        return self.listen_host or self.bind_address
