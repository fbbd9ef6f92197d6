"""What a server's drafts have guessed since it started, as vLLM counts it.

A draft is one step of one request, with so many draft tokens, of which the first few may be accepted.
"""

import asyncio
from dataclasses import dataclass

from benchmarks.connector.client import Client
from benchmarks.errors import CannotStart
from benchmarks.exposition import totals

DRAFTS = "vllm:spec_decode_num_drafts_total"
DRAFT_TOKENS = "vllm:spec_decode_num_draft_tokens_total"
ACCEPTED = "vllm:spec_decode_num_accepted_tokens_total"
SETTLED_S = 0.25  # a step's numbers may come a moment after its tokens


@dataclass(frozen=True)
class Guesses:
    drafts: int
    draft_tokens: int
    accepted: int

    def __sub__(self, before: "Guesses") -> "Guesses":
        return Guesses(
            self.drafts - before.drafts, self.draft_tokens - before.draft_tokens, self.accepted - before.accepted
        )


async def read(client: Client, url: str) -> Guesses:
    """Once they no longer change; the server must have nothing to do.

    Raises: RequestFailed, OutOfTime; CannotStart: the server does not guess.
    """
    found = None
    while (now := guesses_in(await client.metrics(url))) != found:
        found = now
        await asyncio.sleep(SETTLED_S)
    return now


def guesses_in(exposition: str) -> Guesses:
    """Of all engines. Raises: CannotStart: it counts none."""
    counted = totals(exposition)
    try:
        return Guesses(*(int(counted[name]) for name in (DRAFTS, DRAFT_TOKENS, ACCEPTED)))
    except KeyError as missing:
        raise CannotStart(f"/metrics: no {missing.args[0]}: expected a server that speculates") from missing
