"""What an instance does by itself: prompts, streams, both in a step, and what the way through the proxy adds.

Measured at the consumer, which computes prompts when nobody else does, as an aggregated server with the same options
would.
"""

from functools import partial
from statistics import median

from benchmarks.profile.asking import ANSWER, CONTEXT, LONG, SHORT, STREAMS, Asking
from benchmarks.profile.windows import shared_step
from planner.fit import Sample
from planner.simulation.costs import pairs

BATCHES = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = (CONTEXT, 1024, 4096)
OF_PROMPTS = ("request_s", "step_s", "prompt_token_s", "prompt_pair_s")


async def prompts(asking: Asking) -> list[Sample]:
    """Time to the first token by length; longer than a step they are computed in several."""
    found, limits, consumer = [], asking.limits, asking.routes.consumer
    for tokens in asking.lengths():
        if tokens * asking.token_s > limits.longest_s:
            break
        await asking.first_token(consumer, tokens)  # what is made at the first of its kind
        seconds = await asking.repeated(partial(asking.first_token, consumer, tokens))
        asking.token_s = max(asking.token_s, median(seconds) / tokens if tokens >= LONG else 0.0)
        steps = -(-tokens // limits.step_tokens)
        parts = dict(zip(OF_PROMPTS, (1.0, steps, tokens, pairs(0, tokens)), strict=True))
        found.append(Sample("prefill", f"a prompt of {tokens:,} tokens", seconds, parts))
    return found


async def streams(asking: Asking) -> list[Sample]:
    """A step's time by how many sequences decode, and how long their contexts are."""
    found = []
    for context in CONTEXTS:
        for sequences in BATCHES:
            if not _bears(asking, sequences, context):
                break
            seconds = await asking.repeated(partial(asking.step, sequences, context))
            asking.step_s = min(asking.step_s, median(seconds))
            middle = context + asking.answer(sequences, context) / 2
            parts = {"step_s": 1.0, "sequence_s": sequences, "context_token_s": sequences * middle}
            found.append(Sample("decode", f"{sequences} streams after {context:,} tokens", seconds, parts))
    return found


async def mixed(asking: Asking) -> list[Sample]:
    """The one step that a prompt and running streams share, as the streams' gaps show it."""

    async def share(tokens: int) -> float:
        return await asking.beside_streams(asking.routes.consumer, asking.prompts.next(tokens), 1, shared_step)

    found = []
    for tokens in asking.lengths():
        if tokens + STREAMS > asking.limits.step_tokens or tokens < LONG:
            continue
        seconds = await asking.repeated(partial(share, tokens))
        context = STREAMS * (CONTEXT + ANSWER / 2)
        parts = {"step_s": 1.0, "sequence_s": STREAMS, "context_token_s": context}
        parts |= {"prompt_token_s": tokens, "prompt_pair_s": pairs(0, tokens)}
        found.append(Sample("mixed", f"a prompt of {tokens:,} tokens beside {STREAMS} streams", seconds, parts))
    return found


async def proxy_s(asking: Asking) -> float:
    """What the way through the proxy adds to a first token."""
    repeats = range(2 * asking.limits.repeats)
    through = [await asking.first_token(asking.routes.proxy, SHORT) for _ in repeats]
    directly = [await asking.first_token(asking.routes.consumer, SHORT) for _ in repeats]
    return max(0.0, median(through) - median(directly))


def _bears(asking: Asking, sequences: int, context: int) -> bool:
    limits, tokens = asking.limits, context + asking.answer(sequences, context)
    fits = sequences * tokens <= 0.8 * limits.kv_tokens and tokens <= limits.request_tokens
    return fits and sequences * context * asking.token_s <= limits.longest_s
