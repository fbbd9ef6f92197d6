"""Greedy answers with log probabilities, by a transfer or without one, and how far apart two of them are."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.tiny_servers.instances import TIMEOUT, Server, Tokens, complete

AT_ONCE = 10
ANSWER_TOKENS = 5
LIKELIEST = 20  # of which a log probability is told, at each token


@dataclass(frozen=True)
class Answer:
    """facts: of the transfer; None where the server has computed all of the prompt."""

    tokens: Tokens
    log_probabilities: list[dict[str, float]]
    facts: dict[str, Any] | None

    def distance(self, other: "Answer") -> float:
        """The largest difference of a log probability, of any token that both name, while they agree on the text."""
        largest = 0.0
        for place, (ours, theirs) in enumerate(zip(self.log_probabilities, other.log_probabilities, strict=True)):
            common = ours.keys() & theirs.keys()
            largest = max(largest, *(abs(ours[token] - theirs[token]) for token in common), len(common) == 0)
            if self.tokens[place] != other.tokens[place]:
                break
        return largest


async def plain(server: Server, prompts: Sequence[Tokens], at_once: int = AT_ONCE, **more: Any) -> list[Answer]:
    """The server's alone. It uses no block that it has from before, unless `more` names a `cache_salt`."""
    more = {"cache_salt": uuid.uuid4().hex} | more
    return await _each(prompts, at_once, lambda session, prompt: _ask(session, server, prompt, **more))


async def transferred(
    producer: Server, consumer: Server, prompts: Sequence[Tokens], at_once: int = AT_ONCE, **more: Any
) -> list[Answer]:
    """The consumer's, whose two legs are posted at the same time."""

    async def one(session: aiohttp.ClientSession, prompt: Tokens) -> Answer:
        transfer = {"transfer_id": uuid.uuid4().hex}
        theirs = {"do_remote_decode": True, **transfer}
        ours = {"do_remote_prefill": True, "producer": producer.record, **transfer}
        _, answer = await asyncio.gather(
            complete(session, producer, prompt, **(more | {"max_tokens": 1}), kv_transfer_params=theirs),
            _ask(session, consumer, prompt, **more, kv_transfer_params=ours),
        )
        return answer

    return await _each(prompts, at_once, one)


async def _ask(session: aiohttp.ClientSession, server: Server, prompt: Tokens, **more: Any) -> Answer:
    wanted = {"max_tokens": ANSWER_TOKENS, "logprobs": LIKELIEST, "return_tokens_as_token_ids": True}
    answer = await complete(session, server, prompt, **(wanted | more))
    (choice,) = answer["choices"]
    return Answer(choice["token_ids"], choice["logprobs"]["top_logprobs"], answer.get("kv_transfer_params"))


async def _each(
    prompts: Sequence[Tokens],
    at_once: int,
    one: Callable[[aiohttp.ClientSession, Tokens], Awaitable[Answer]],
) -> list[Answer]:
    limit = asyncio.Semaphore(at_once)
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:

        async def in_turn(prompt: Tokens) -> Answer:
            async with limit:
                return await one(session, prompt)

        return list(await asyncio.gather(*map(in_turn, prompts)))
