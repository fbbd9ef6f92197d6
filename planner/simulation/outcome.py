"""What came out of a run: for each request when its tokens came and who made them, for each instance what it did."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from planner.trace import Arrival
from proxy.routing.dispatch import Route

# The ends of an instance's steps, and at which of them tokens came.
Tokens = tuple[list[float], list[list[int]]]


@dataclass(slots=True)
class Served:
    """One request; times in seconds of the run, as the client sees them. computed: tokens of its prompt, by anybody.

    exposed_s: how much later than the prompt's last token its KV cache was at the consumer, None: it did not move.
    """

    arrival: Arrival
    route: Route
    first_s: float
    ended_s: float = 0.0
    computed: int = 0
    moved: int = 0
    exposed_s: float | None = None
    preemptions: int = 0
    after_s: float = 0.0
    tokens: list[Tokens] = field(default_factory=list)

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.arrival.at_s

    @property
    def tpot_s(self) -> float | None:
        """None: of a single token."""
        tokens = self.arrival.output_tokens
        return (self.ended_s - self.first_s) / (tokens - 1) if tokens > 1 else None

    def token_times(self) -> Iterator[float]:
        """A producer's first token, and all that were made elsewhere."""
        if sum(last - first for _, stretches in self.tokens for first, last in stretches) < self.arrival.output_tokens:
            yield self.first_s
        for ends, stretches in self.tokens:
            for first, last in stretches:
                yield from (end + self.after_s for end in ends[first:last])

    def gaps_s(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.token_times())]


@dataclass(frozen=True, slots=True)
class Work:
    """Of one instance: tokens of prompts, seconds in steps, how often it took a request's blocks away."""

    computed: int
    busy_s: float
    steps: int
    preemptions: int


@dataclass
class Outcome:
    """served: in the order in which their first tokens came. instances: by id."""

    served: list[Served] = field(default_factory=list)
    instances: dict[str, Work] = field(default_factory=dict)

    @property
    def hit_rate(self) -> float:
        """Share of the prompts' tokens that nobody had to compute."""
        prompts = sum(each.arrival.prompt.tokens for each in self.served)
        return 1 - sum(work.computed for work in self.instances.values()) / prompts if prompts else 0.0
