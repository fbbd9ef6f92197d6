"""Prompts that no server has seen before, so that no prefix cache helps."""

import random

# Below the size of any vocabulary used here, above the special tokens.
TOKENS = range(100, 40000)


class Prompts:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def next(self, tokens: int) -> list[int]:
        return self._random.choices(TOKENS, k=tokens)
