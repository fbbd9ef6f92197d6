"""How large made-up weights are: so that every layer changes what it is given, and numbers stay about as large.

vLLM's own dummy weights are all below 0.001: such a model answers every prompt alike, and no comparison of answers
tells anything. Names are vLLM's, in which the projections of queries, keys and values are one weight.
"""

from collections.abc import Sequence

WORKER_EXTENSION = "benchmarks.model_shapes.spread_weights.WorkerExtension"  # the class that has vLLM load them
# For attention that picks tokens instead of averaging all of them.
SHARP = (
    "qkv_proj",
    "q_proj",
    "k_proj",
    "q_b_proj",
    "kv_a_proj",
)  # attention that picks tokens instead of averaging all
STATE = {
    # How fast a state is forgotten: what is `A` to Mamba-2 is the logarithm of `-A` to GDN.
    "A": (-0.5, -0.01),
    "A_log": (-4.0, -1.0),
    "dt_bias": (-1.0, 1.0),
    "D": (0.5, 1.0),
}


def bounds(name: str, shape: Sequence[int]) -> tuple[float, float]:
    """Between which values a weight's are spread evenly; a norm's are added to what it starts with (0 or 1)."""
    last = name.rsplit(".", 1)[-1]
    if last in STATE:
        return STATE[last]
    if is_norm(name, shape):
        return -0.2, 0.2
    if len(shape) < 2:
        return -0.1, 0.1
    # Uniform with a variance of 1 / inputs.
    gain = 2.0 if any(part in name for part in SHARP) else 1.0
    bound = gain * (3 / shape[-1]) ** 0.5
    return -bound, bound


def is_norm(name: str, shape: Sequence[int]) -> bool:
    return "norm" in name and len(shape) == 1
