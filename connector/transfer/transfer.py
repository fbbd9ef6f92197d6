"""Which blocks of which layer still have to reach the consumer.

A `Prompt` is what the producer's rank has computed of one request; a `Share` is what one rank of the consumer is to get
of it. A cursor per layer counts the blocks already handed to the transfer engine; registration, compute and
re-computation only ever let it move forward, so they may come in any order. Pure state: no clock, no lock, no vLLM, no
Mooncake.
"""

from dataclasses import dataclass, field
from enum import Enum

from connector.control.messages import Register

OTHER_TOKENS = (
    "wrong prompt: the two sides made other tokens of this request: look for the time of day in the chat template, "
    "another time zone (TZ), or another template or tokenizer on one side"
)


class End(Enum):
    """How a share ends; the message that tells the consumer has the same name."""

    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Run:
    """Blocks `[start, stop)` of the prompt, counted from the prompt's first, in one layer."""

    layer: int
    start: int
    stop: int


@dataclass
class Prompt:
    """One prompt while it is computed. `block_size` is in tokens; layers and blocks count from 0."""

    layers: int
    block_size: int
    digest: str | None = None  # of its tokens; unknown until the prefill request has come
    tokens: int | None = None  # unknown until the prefill's first chunk is scheduled
    block_ids: list[int] = field(default_factory=list)  # replaced, never changed: a sender may be reading it
    _computed: list[int] = field(default_factory=list)  # tokens per layer whose K and V are written

    def __post_init__(self) -> None:
        self._computed = [0] * self.layers

    def schedule(self, tokens: int, block_ids: list[int]) -> None:
        """A step is about to compute a chunk of the prompt; `block_ids` is the request's whole live block table."""
        self.tokens = tokens
        self.block_ids = block_ids

    def computed(self, layer: int, end: int) -> None:
        """K and V of the layer are in memory up to token `end`; harmless when they were known to be."""
        self._computed[layer] = max(self._computed[layer], end)

    def forget_blocks(self) -> None:
        """The request was preempted: its blocks are no longer ours. What was sent stays sent."""
        self.block_ids = []
        self._computed = [0] * self.layers

    @property
    def complete(self) -> bool:
        return self.tokens is not None and min(self._computed) >= self.tokens

    @property
    def blocks(self) -> int:
        """Blocks that the prompt fills, the last one perhaps in part."""
        assert self.tokens is not None
        return -(-self.tokens // self.block_size)

    def final_blocks(self, layer: int) -> int:
        """Blocks of the layer that no later step changes: whole ones, and the last when the prompt is complete."""
        if self.tokens is not None and self._computed[layer] >= self.tokens:
            return self.blocks
        return self._computed[layer] // self.block_size


@dataclass
class Share:
    """What one registration asks for, and how much of it is on its way."""

    prompt: Prompt
    registration: Register
    ending: tuple[End, str] | None = None  # decided, but perhaps a write is still in flight
    writing: bool = False
    unended: bool = False
    _cursor: list[int] = field(default_factory=list)  # next block per layer to hand to the transfer engine
    _landed: list[int] = field(default_factory=list)  # the same, but counting only writes that have returned

    def __post_init__(self) -> None:
        self._cursor = [self.registration.first_block] * self.prompt.layers
        self._landed = list(self._cursor)
        self.check()

    def check(self) -> None:
        """Ends the share when both sides' prompts, once both are known, are not the same tokens.

        Each side renders the chat template by itself, so that a template with the time of day gives two prompts.
        """
        if self.prompt.digest not in (None, self.registration.prompt):
            self.end(End.FAILED, OTHER_TOKENS)
        if self.prompt.tokens is None:
            return
        wanted, have = self.registration.first_block + len(self.registration.block_ids), self.prompt.blocks
        if wanted != have:
            self.end(End.FAILED, f"wrong prompt: the consumer's has {wanted} blocks, the producer's {have}")

    def has_work(self) -> bool:
        return self.ending is None and any(
            cursor < self.prompt.final_blocks(layer) for layer, cursor in enumerate(self._cursor)
        )

    def take(self) -> list[Run]:
        """Hand over everything that is final and unsent. Until `landed` no other write of this share may start."""
        assert not self.writing
        runs = []
        for layer, cursor in enumerate(self._cursor):
            final = self.prompt.final_blocks(layer)
            if cursor < final:
                runs.append(Run(layer, cursor, final))
                self._cursor[layer] = final
        self.writing = bool(runs)
        return runs

    def landed(self) -> None:
        """The write that `take` handed out has returned, and its bytes are at the consumer."""
        self.writing = False
        self._landed = list(self._cursor)
        if self.prompt.tokens is not None and min(self._landed) == self.prompt.blocks:
            self.end(End.DONE, "")

    def lost(self, cause: str, unended: bool) -> None:
        """The write that `take` handed out has returned with an error; `unended`: bytes of it may still arrive."""
        self.writing = False
        self.unended = self.unended or unended
        self.end(End.FAILED, cause)

    def end(self, how: End, cause: str) -> None:
        """Decide the end; the first decision stands. It is final once no write is in flight (`settled`)."""
        if self.ending is None:
            self.ending = (how, cause)

    @property
    def settled(self) -> bool:
        return self.ending is not None and not self.writing

    @property
    def delivered_blocks(self) -> int:
        """Blocks from the registration's first on that are complete at the consumer in every layer."""
        return min(self._landed) - self.registration.first_block
