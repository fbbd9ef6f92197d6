"""What one machine's instances cost, as `make profile` measured it: profile.json.

Every figure is of one instance. `residuals` say how far the fit is from what was measured; a plan repeats them.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from planner.simulation import machine
from planner.simulation.costs import Constants, StepCosts, TransferCosts
from planner.simulation.server import Scheduling, Server
from planner.trace import BLOCK_TOKENS
from stack.configuration.environment import ConfigError

VERSION = 1
BESIDE = "beside"  # the kind of residual of what an instance takes while another one of the machine computes
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
MoreOrLess = Annotated[float, Field(allow_inf_nan=False)]  # seconds
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # of a whole
Count = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Step(_Part):
    """As `StepCosts`."""

    step_s: Seconds
    sequence_s: Seconds
    context_token_s: Seconds
    prompt_token_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    prompt_pair_s: Seconds
    join_s: Seconds = 0.0
    join_token_s: Seconds = 0.0
    overlap: Annotated[float, Field(ge=0, le=1)] = 0.0
    launch_s: Seconds = 0.0
    graph_tokens: Annotated[int, Field(ge=0)] = 0

    def costs(self, slower: float) -> StepCosts:
        seconds = {name: value * slower for name, value in self.model_dump().items() if name.endswith("_s")}
        return StepCosts(**seconds, overlap=self.overlap, graph_tokens=self.graph_tokens)


class Transfer(_Part):
    """As `TransferCosts`, over one transport."""

    bytes_per_s: Annotated[float, Field(gt=0)]
    latency_s: Seconds
    handover_s: Seconds


class Crowding(_Part):
    """As planner/simulation/machine.py has it."""

    answers_beside_answers: Share = 0.0
    answers_beside_prompts: Share = 0.0
    prompts_beside_answers: Share = 0.0
    prompts_beside_prompts: Share = 0.0


class Residual(_Part):
    """Of one kind of measurement: |fitted - measured| / measured over so many of them."""

    samples: Count
    median: Seconds
    worst: Seconds


class Profile(_Part):
    """conditions: machine, versions and options, as facts to show. residuals: by kind of measurement.

    transfers: by transport, the one that was used first. bytes_per_token: of KV cache. before_s, after_s: what passes
    between the client and the engine, to it and back. split_s, split_beside_s (None: the same) and beside_s: as
    `Constants`; crowding and what follows it: as `Pace`.
    """

    version: Literal[1] = 1
    conditions: dict[str, str]
    gpus_per_instance: Count = 1
    step: Step
    residuals: dict[str, Residual]
    bytes_per_token: Annotated[float, Field(gt=0)]
    layers: Count = 1
    transfers: Annotated[dict[str, Transfer], Field(min_length=1)]
    before_s: Seconds
    after_s: Seconds
    split_s: Seconds = 0.0
    split_beside_s: Seconds | None = None
    beside_s: Seconds = 0.0
    first_token: Literal["producer", "consumer"] = "producer"
    kv_tokens: Count
    block_tokens: Count
    step_tokens: Count
    max_sequences: Count = 256
    steps_ahead: Annotated[int, Field(ge=0, le=1)] = 0
    crowding: Crowding = Crowding()
    awaiting: Share = 0.0
    jitter_s: tuple[MoreOrLess, ...] = ()
    jitter_beside_s: tuple[MoreOrLess, ...] = ()

    @field_validator("crowding", mode="before")
    @classmethod
    def _of_all_kinds(cls, value: object) -> object:
        """A number: the same for all, as profiles had it that did not tell answers from prompts."""
        if isinstance(value, (int, float)):
            return dict.fromkeys(Crowding.model_fields, value)
        return value

    @property
    def error(self) -> float:
        """How far a step's predicted time is off: the largest of the kinds' medians."""
        return max((residual.median for residual in self.residuals.values()), default=0.0)

    @property
    def apart(self) -> "Profile":
        """The same where no instance slows another one: the profile's two shared what these do not."""
        pace = self._pace.apart
        residuals = {kind: residual for kind, residual in self.residuals.items() if kind != BESIDE}
        changed = {**asdict(pace), "crowding": Crowding(**asdict(pace.crowding)), "beside_s": 0.0}
        return self.model_copy(update={**changed, "residuals": residuals})

    @property
    def _pace(self) -> machine.Pace:
        crowding = machine.Crowding(**self.crowding.model_dump())
        return machine.Pace(crowding, self.awaiting, self.jitter_s, self.jitter_beside_s)

    def server(self, slower: float = 1.0) -> Server:
        """Args: slower: its steps take so many times as long."""
        scheduling = Scheduling(self.step_tokens, self.max_sequences, steps_ahead=self.steps_ahead)
        # A block larger than one with an identity, or none of its divisors, is told in the largest that is.
        block = next(size for size in (128, 64, 32, 16, 8, 4, 2, 1) if self.block_tokens % size == 0)
        return Server(self.step.costs(slower), scheduling, self.kv_tokens, min(block, BLOCK_TOKENS), self._pace)

    def transfer(self, transport: str | None = None, bandwidth: float = 1.0) -> TransferCosts:
        """Args: transport: None: the first; bandwidth: so many times that of the profile. Raises: KeyError."""
        found = self.transfers[transport or next(iter(self.transfers))]
        return TransferCosts(
            self.bytes_per_token, found.bytes_per_s * bandwidth, found.latency_s, self.layers, found.handover_s
        )

    @property
    def constants(self) -> Constants:
        split_beside_s = self.split_s if self.split_beside_s is None else self.split_beside_s
        return Constants(
            self.before_s, self.after_s, self.first_token, self.split_s, split_beside_s, beside_s=self.beside_s
        )


def read(path: Path, name: str) -> Profile:
    """Args: name: of the option or variable that says where it is. Raises: ConfigError."""
    try:
        return Profile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            [f"{name}={str(path)!r}: {error.strerror}; `make profile` writes one where the stack runs"]
        ) from error
    except ValidationError as error:
        lines = []
        for problem in error.errors()[:5]:
            member = ".".join(str(part) for part in problem["loc"])
            lines.append(f"{name}={str(path)!r}: {f'{member}: ' if member else ''}{problem['msg']}")
        raise ConfigError(lines) from error
