"""The KV blocks of one instance: those of its sequences, and those that are kept as prefix cache until they are needed.

As in vLLM a whole block of a prompt has an identity as soon as it is computed. Sequences whose prompts begin alike
share it; when none holds it any more it is cached, and what was used longest ago is given up first. A prompt's blocks
are freed from its end, so that its first one is always younger than its last.

The identities are those of `Prompt.blocks`, of 128 tokens each, while vLLM's own blocks are smaller: a hit can be up to
a block of 128 shorter here than it would be there.
"""

from collections import OrderedDict
from collections.abc import Sequence as Items

from planner.trace import BLOCK_TOKENS
from proxy.request.prompt import Block

UNBOUNDED = 1 << 60


class KvPool:
    """tokens: its size, None: without bounds. block_tokens: of vLLM's blocks, a divisor of 128."""

    def __init__(self, tokens: int | None, block_tokens: int) -> None:
        if block_tokens < 1 or BLOCK_TOKENS % block_tokens:
            raise ValueError(f"block_tokens={block_tokens}: expected a divisor of {BLOCK_TOKENS}")
        self.block_tokens = block_tokens
        self.capacity = UNBOUNDED if tokens is None else tokens // block_tokens
        self._weight = BLOCK_TOKENS // block_tokens  # blocks behind one identity
        self._private = 0
        self._held: dict[Block, int] = {}  # how many sequences hold it
        self._cached: OrderedDict[Block, None] = OrderedDict()

    @property
    def available(self) -> int:
        """Blocks that no sequence holds."""
        return self.capacity - self._private - self._weight * len(self._held)

    def blocks_of(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens)

    def matched(self, blocks: Items[Block]) -> int:
        """How many leading ones are here."""
        held, cached = self._held, self._cached
        for number, block in enumerate(blocks):
            if block not in held and block not in cached:
                return number
        return len(blocks)

    def fits(self, blocks: Items[Block], matched: int, tokens: int) -> bool:
        """Whether so many tokens, of which the first `matched` blocks are here, could be held by one more sequence."""
        pinned = sum(block in self._cached for block in blocks[:matched])
        needed = self.blocks_of(tokens) - self._weight * (matched - pinned)
        return needed <= self.available

    def take(self, blocks: Items[Block], private: int = 0) -> None:
        """One sequence more holds these whole blocks, and so many more, or less, whose content nobody else can use.

        What is cached makes room; that there is enough has been asked before.
        """
        held, cached = self._held, self._cached
        for block in blocks:
            if block in held:
                held[block] += 1
            else:
                cached.pop(block, None)
                held[block] = 1
        self._private += private
        surplus = self._weight * len(cached) - self.available
        while surplus > 0 and cached:
            cached.popitem(last=False)
            surplus -= self._weight

    def private_blocks(self, tokens: int, shared: int) -> int:
        """Of a sequence that holds so many tokens, `shared` blocks with an identity among them."""
        return self.blocks_of(tokens) - self._weight * shared

    def free(self, blocks: Items[Block], private: int) -> None:
        """A sequence lets go of what it holds."""
        self._private -= private
        held, cached = self._held, self._cached
        for block in reversed(blocks):
            if held[block] > 1:
                held[block] -= 1
            else:
                del held[block]
                cached[block] = None
