"""How weights are made up for a target whose head guesses well, although nobody has trained it.

Such a head sees the token that follows and the target's hidden states. Here only the target's first layer changes what
it is given, and the head is that layer once more and looks at the token alone. So the two say nearly the same, as
long as the head has the prompt in its KV cache. What a step costs does not depend on the weights.

Names are vLLM's. Equal canonical names get equal weights.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from benchmarks.model_shapes.bounds import bounds, is_norm

WORKER_EXTENSION = "benchmarks.model_shapes.guessable_weights.WorkerExtension"
# A module of MTP is a layer behind the target's last one. EAGLE's layer is called `layers.0`, as the target's first.
MODULE = re.compile(r"layers\.\d+\.mtp_block\.")
LATER_LAYER = re.compile(r"(^|\.)layers\.[1-9]\d*\.")
OUT = ("o_proj.weight", "down_proj.weight")
JOINING = ("fc.weight", "eh_proj.weight")  # of the token's vector and the hidden state behind it
LOUD = 8.0  # what leaves the first layer beside the token's own part, which is 1


class Fill(Enum):
    AS_IT_IS = auto()
    ZERO = auto()
    FIRST_HALF = auto()  # passes on the first half of its inputs
    SPREAD = auto()  # evenly between the bounds
    UNIT_ROWS = auto()  # so, and then each row as long as one of ones


@dataclass(frozen=True)
class Weight:
    """`name` is the canonical one, `high` the upper bound of what is spread; the lower one is its negative."""

    name: str
    fill: Fill
    high: float = 0.0


def weight(name: str, shape: Sequence[int]) -> Weight:
    name = MODULE.sub("layers.0.", name)
    if is_norm(name, shape):
        return Weight(name, Fill.AS_IT_IS)
    if name.endswith(JOINING):
        return Weight(name, Fill.FIRST_HALF)
    high = bounds(name, shape)[1]
    if name.endswith("embed_tokens.weight"):
        return Weight(name, Fill.UNIT_ROWS, high)
    if not name.endswith(OUT):
        return Weight(name, Fill.SPREAD, high)
    if LATER_LAYER.search(name):
        return Weight(name, Fill.ZERO)
    return Weight(name, Fill.SPREAD, LOUD * high)
