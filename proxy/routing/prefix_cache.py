"""What one instance is thought to hold in its prefix cache: the most recently used blocks of the prompts sent there.

A block is held only together with all that precede it in its prompt. vLLM frees a prompt's blocks from its end, and so
does this: a prompt's first block is always younger than its last.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from proxy.request.prompt import Block, Prompt


class Store(Protocol):
    """What an instance loads from where its own cache ends."""

    def missing(self, prompt: Prompt, held: int) -> int: ...


class PrefixCache:
    """At most `capacity` blocks, each of 128 tokens or so. One that is made smaller is so from the next prompt on.

    held: a prompt's first block is in it or none of its blocks is.
    """

    def __init__(self, capacity: int, store: Store | None = None) -> None:
        self.capacity = capacity
        self.store = store
        self.held: OrderedDict[Block, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self.held)

    def matched(self, blocks: Sequence[Block]) -> int:
        """How many leading blocks are held."""
        return bisect_left(blocks, True, key=lambda block: block not in self.held)

    def missing(self, prompt: Prompt) -> int:
        """What the prompt costs here, in tokens to compute."""
        held = self.matched(prompt.blocks)
        return self.store.missing(prompt, held) if self.store else prompt.missing(held)

    def insert(self, blocks: Sequence[Block]) -> None:
        """A prompt was sent here; the least recently used blocks make room for its own."""
        held = self.held
        for block in reversed(blocks[: self.capacity]):
            if block in held:
                held.move_to_end(block)
            else:
                held[block] = None
        while len(held) > self.capacity:
            held.popitem(last=False)
