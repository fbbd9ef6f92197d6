"""Made-up traffic for the other extreme: a few long prefixes, some in much more demand than others, short questions.

Each prompt is one of `prefixes` (the first in half of them, the second in a sixth, the third in a twelfth, …) of 8,192
tokens, and 256 to 2,048 tokens that occur nowhere else; they arrive at random.
"""

import random
from itertools import count

from planner.trace import TRACE_BLOCK, Arrival, prompt_of

PREFIX_BLOCKS = 16


def shared_prefixes(requests: int, requests_per_s: float, prefixes: int, seed: int) -> list[Arrival]:
    dice, unique, at_s = random.Random(seed), count(prefixes * PREFIX_BLOCKS), 0.0
    arrivals = []
    for _ in range(requests):
        at_s += dice.expovariate(requests_per_s)
        prefix = min(int(dice.paretovariate(1.0)), prefixes) - 1
        question_tokens = dice.randrange(256, 2049)
        blocks = [prefix * PREFIX_BLOCKS + number for number in range(PREFIX_BLOCKS)]
        blocks += [next(unique) for _ in range(-(-question_tokens // TRACE_BLOCK))]
        prompt = prompt_of(PREFIX_BLOCKS * TRACE_BLOCK + question_tokens, blocks)
        arrivals.append(Arrival(at_s, prompt, dice.randrange(50, 500)))
    return arrivals
