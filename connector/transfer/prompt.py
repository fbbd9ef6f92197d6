"""What the producer's rank has computed of one request. Pure state: no clock, no lock, no vLLM, no Mooncake."""

from dataclasses import dataclass, field

from connector.cache.layout import Kind, KVLayout


@dataclass
class Prompt:
    """One prompt while it is computed, layer by layer. Layers are numbered as in the layout.

    `tokens`: of the part that is moved, unknown until the prefill's first chunk is scheduled.
    """

    layout: KVLayout
    digest: str | None = None  # of its tokens; unknown until the prefill request has come
    tokens: int | None = None
    block_ids: tuple[list[int], ...] = ()  # by group; replaced, never changed: a sender may be reading it
    _computed: list[int] = field(default_factory=list)  # tokens per layer whose cache is written

    def __post_init__(self) -> None:
        self._computed = [0] * len(self.layout.layers)
        self._groups = [self.layout.groups[layer.group] for layer in self.layout.layers]

    def schedule(self, tokens: int, block_ids: tuple[list[int], ...]) -> None:
        """A step is about to compute a chunk of the prompt; `block_ids` are the request's whole live block tables."""
        self.tokens = tokens
        self.block_ids = block_ids

    def computed(self, layer: int, end: int) -> None:
        """The layer's cache is in memory up to token `end`; harmless when it was known to be."""
        self._computed[layer] = max(self._computed[layer], end)

    def forget_blocks(self) -> None:
        """The request was preempted: its blocks are no longer ours. What was sent stays sent."""
        self.block_ids = ()
        self._computed = [0] * len(self._computed)

    @property
    def complete(self) -> bool:
        return self.tokens is not None and min(self._computed) >= self.tokens

    def final_end(self, layer: int) -> int:
        """The position from which on later steps still write into the layer: behind its whole blocks, or behind the
        last one when the prompt is complete. A state is written with every token, so it is final only then."""
        group = self._groups[layer]
        if self.tokens is not None and self._computed[layer] >= self.tokens:
            return group.blocks(self.tokens)
        return 0 if group.kind is Kind.STATE else self._computed[layer] // group.block_tokens
