"""Which blocks of which layer still have to reach one rank of the consumer.

A `Share` is what one registration asks for of a `Prompt`. A cursor per layer is the next position to hand to the
transfer engine; registration, compute and re-computation only ever let it move forward, so they may come in any order.
Pure state: no clock, no lock, no vLLM, no Mooncake.
"""

from dataclasses import dataclass, field
from enum import Enum

from connector.cache.layout import NULL_BLOCK
from connector.control.messages import Register
from connector.transfer.prompt import Prompt

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
    """Positions `[start, stop)` of one layer, which is `layer` in our layout and `place` in the registration."""

    layer: int
    place: int
    start: int
    stop: int


@dataclass
class Share:
    """What one registration asks for, and how much of it is on its way. Layers that it names and the prompt's layout
    does not have are left to other stages of the pipeline.
    """

    prompt: Prompt
    registration: Register
    ending: tuple[End, str] | None = None  # decided, but perhaps a write is still in flight
    writing: bool = False
    unended: bool = False
    places: list[int] = field(default_factory=list)  # in the registration's layers, of those that are ours
    _layers: list[int] = field(default_factory=list)  # ours, in the order of `places`; so are the lists below
    _ends: list[int] = field(default_factory=list)  # the position behind the last one that is wanted
    _cursor: list[int] = field(default_factory=list)  # the next position to hand to the transfer engine
    _landed: list[int] = field(default_factory=list)  # the same, but counting only writes that have returned

    def __post_init__(self) -> None:
        layout = self.prompt.layout
        asked = self.registration.layers
        self.places = [number for number, place in enumerate(asked) if place.name in layout.by_name]
        self._layers = [layout.by_name[asked[number].name] for number in self.places]
        wanted = [self.registration.groups[layout.layers[layer].group] for layer in self._layers]
        self._cursor = [blocks.first for blocks in wanted]
        self._ends = [blocks.first + len(blocks.block_ids) for blocks in wanted]
        self._landed = list(self._cursor)
        self.check()

    def check(self) -> None:
        """Ends the share when it is whole, and when both sides' prompts, once both are known, are not the same.

        Each side renders the chat template by itself, so that a template with the time of day gives two prompts.
        """
        if self.prompt.digest not in (None, self.registration.prompt):
            self.end(End.FAILED, OTHER_TOKENS)
        if self.prompt.tokens is None:
            return
        if self.registration.tokens != self.prompt.tokens:
            theirs, ours = self.registration.tokens, self.prompt.tokens
            self.end(End.FAILED, f"wrong prompt: the consumer's has {theirs} tokens to move, the producer's {ours}")
        if self.prompt.complete and self._landed == self._ends:
            self.end(End.DONE, "")

    def has_work(self) -> bool:
        return self.ending is None and any(start < stop for start, stop in self._unsent())

    def take(self) -> list[Run]:
        """Hand over everything that is final and unsent. Until `landed` no other write of this share may start.

        A block that is wanted and no longer ours ends the share, and nothing is handed over: the two sides would not
        agree on what a window needs.
        """
        assert not self.writing
        unsent = [(index, start, stop) for index, (start, stop) in enumerate(self._unsent()) if start < stop]
        runs = [Run(self._layers[index], self.places[index], start, stop) for index, start, stop in unsent]
        for run in runs:
            table = self.prompt.block_ids[self.prompt.layout.layers[run.layer].group]
            if NULL_BLOCK in table[run.start : run.stop] or len(table) < run.stop:
                name = self.prompt.layout.layers[run.layer].name
                self.end(End.FAILED, f"not kept: positions {run.start} to {run.stop - 1} of {name} hold no block here")
                return []
        for index, _, stop in unsent:
            self._cursor[index] = stop
        self.writing = bool(runs)
        return runs

    def landed(self) -> None:
        """The write that `take` handed out has returned, and its bytes are at the consumer."""
        self.writing = False
        self._landed = list(self._cursor)
        self.check()

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
    def whole(self) -> bool:
        return self.ending is not None and self.ending[0] is End.DONE

    @property
    def settled(self) -> bool:
        return self.ending is not None and not self.writing

    @property
    def delivered_blocks(self) -> int:
        """Blocks of the registration's first group, from the first on, that are complete at the consumer in every
        layer of it; all of them where none is to be filled."""
        blocks, layers = self.registration.groups[0], self.prompt.layout.layers
        landed = [end for layer, end in zip(self._layers, self._landed, strict=True) if layers[layer].group == 0]
        return min(landed, default=blocks.first + len(blocks.block_ids)) - blocks.first

    def _unsent(self) -> list[tuple[int, int]]:
        """For each layer the positions that could be handed over now."""
        return [
            (cursor, min(end, self.prompt.final_end(layer)))
            for layer, cursor, end in zip(self._layers, self._cursor, self._ends, strict=True)
        ]
