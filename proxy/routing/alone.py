"""Whether the consumer computes a prompt alone or a producer does, by what either costs now.

Costs are in tokens of prompts to compute, the one unit of which the proxy knows how much everybody has in hand. What is
computed makes wait: the request itself, and whoever shares the steps in which it is computed.

    alone             (1 + streams) x tokens      each stream that the consumer runs waits for one longer step
    with a producer   ahead + tokens there + handover      the request waits alone; nobody else's stream does

streams   requests of which the consumer has the KV cache, and so makes tokens
ahead     tokens in the producer's queue that come before this prompt's (`PrefillOrder.ahead`)
tokens    of this prompt, without what the instance that computes them holds; of the two sides each its own
handover  what the way over a producer adds to a first token: PROXY_LOCAL_PROMPT_TOKENS, which was measured as the
          length at which both ways cost the same with one stream and an idle producer (docs/benchmarks/README.md,
          "Alone or with a producer"): 2 x tokens = tokens + handover. Longer prompts are not asked about.

A consumer without streams therefore takes every prompt below that length. With n streams and an idle producer it takes
those below an n-th of it, and longer ones while the producer's queue costs more than the streams would pay.
"""

from typing import Literal, NamedTuple

Verdict = Literal["cheaper", "producer_busy", "consumer_busy"]


class Costs(NamedTuple):
    """In tokens; streams: a number. As above."""

    tokens: int
    streams: int
    tokens_there: int
    ahead: int
    handover: int

    @property
    def verdict(self) -> Verdict:
        """cheaper: alone, even if the producer were idle; producer_busy: alone, because of its queue.

        consumer_busy: with the producer.
        """
        alone = (1 + self.streams) * self.tokens
        with_idle_producer = self.tokens_there + self.handover
        if alone < with_idle_producer:
            return "cheaper"
        return "producer_busy" if alone < self.ahead + with_idle_producer else "consumer_busy"
