"""What a KV store that instances share is thought to hold, and how far that can be relied on.

Whatever one of them has computed is saved there, and saves nobody else's queue anything unless dispatch knows it. But a
store drops what is not used, may be full, or away: an instance that finds nothing there computes the prompt after all.
So a token counts as much as it costs to load it, and by so much more as loads were expected in vain of late.
"""

from collections.abc import Sequence

from proxy.request.prompt import Block, Prompt
from proxy.routing.prefix_cache import PrefixCache

LOADED_TOKEN = 0.1  # to load one, where computing it is 1 (docs/store.md)
WEIGHT_OF_THE_LAST = 0.2


class SharedStore:
    """At most `capacity` blocks, as of a prefix cache."""

    def __init__(self, capacity: int) -> None:
        self._cache = PrefixCache(capacity)
        self._right = 1.0
        self._last: tuple[Sequence[Block], int] = ((), 0)  # of one prompt all its producers are compared

    def resize(self, capacity: int) -> None:
        """From the next prompt on, as a prefix cache."""
        self._cache.capacity = capacity

    def matched(self, blocks: Sequence[Block]) -> int:
        """How many leading blocks are there."""
        if self._last[0] is not blocks:
            self._last = blocks, self._cache.matched(blocks)
        return self._last[1]

    def missing(self, prompt: Prompt, held: int) -> int:
        """What a prompt costs an instance that holds its first `held` blocks, in tokens to compute."""
        stored = self.matched(prompt.blocks)
        if stored <= held:
            return prompt.missing(held)
        return prompt.missing(stored) + int((stored - held) * prompt.block_tokens * self._cost)

    def saved(self, blocks: Sequence[Block]) -> None:
        self._cache.insert(blocks)
        self._last = (), 0

    def expected(self, *, came: bool) -> None:
        """A load that `matched` promised has come, or the store did not have it."""
        self._right += WEIGHT_OF_THE_LAST * (came - self._right)

    @property
    def _cost(self) -> float:
        return LOADED_TOKEN + (1 - LOADED_TOKEN) * (1 - self._right)
