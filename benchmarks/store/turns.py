"""The routes of a prompt in turn: computed, found locally, in the store, and there by a server that started since.

Each round has one new prompt for all of its routes; so the store holds each prompt once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.connector.client import Client
from benchmarks.connector.prompts import Prompts
from benchmarks.connector.topology.routes import Route
from benchmarks.results import Results
from benchmarks.store import asked
from benchmarks.store.asked import Hits
from benchmarks.store.instances import ANEW, FIRST, PLAIN, SECOND
from benchmarks.store.options import Options

OFF, NOTHING, LOCAL, STORED = "store off", "nothing to find", "local hit", "from the store"
TABLE = "ttft"
COMPUTED = Hits(0, 0)

Prompt = Sequence[int]


@dataclass(frozen=True)
class Request:
    """`expected`: where the server is to find the prompt's cache."""

    route: str
    server: Route
    prompt: Prompt
    expected: Hits


@dataclass(frozen=True)
class Turns:
    """Adds a row of each request that is no warm-up to the results. `stored`: prompts of each length in the store.

    tokens: what a prompt was answered with when it was computed, which comes first. Rounding may change that once in a
    while where a step has another shape; a cache of other bytes changes it nearly always.
    """

    options: Options
    prompts: Prompts
    results: Results
    stored: dict[int, list[Prompt]] = field(default_factory=dict)
    tokens: dict[Sequence[int], int] = field(default_factory=dict)

    async def measure(self, client: Client, servers: Mapping[str, Route]) -> None:
        """Raises: OutOfTime, CannotStart."""
        plain, first, second = servers[PLAIN], servers[FIRST], servers[SECOND]
        for tokens, number in self._rounds():
            prompt, found = self.prompts.next(tokens), self._whole_blocks(tokens)
            self.stored.setdefault(tokens, []).append(prompt)
            computed = [Request(OFF, plain, prompt, COMPUTED), Request(NOTHING, first, prompt, COMPUTED)]
            await self._ask(client, "first start", tokens, number, computed)
            # A row is there when its server is at rest, so what the first one has computed is in the store by now.
            loaded = [Request(LOCAL, first, prompt, Hits(found, 0)), Request(STORED, second, prompt, Hits(0, found))]
            await self._ask(client, "first start", tokens, number, loaded)

    async def measure_again(self, client: Client, servers: Mapping[str, Route]) -> None:
        """The same prompts, of a server that knows none of them. Raises: OutOfTime, CannotStart."""
        left = {tokens: iter(prompts) for tokens, prompts in self.stored.items()}
        for tokens, number in self._rounds():
            stored = Hits(0, self._whole_blocks(tokens))
            requests = [
                Request(OFF, servers[PLAIN], self.prompts.next(tokens), COMPUTED),
                Request(STORED, servers[ANEW], next(left[tokens]), stored),
            ]
            await self._ask(client, "after a restart", tokens, number, requests)

    def _rounds(self) -> Iterator[tuple[int, int]]:
        """Lengths, and the rounds of each; those of a warm-up are below 0."""
        for tokens in self.options.prompt_tokens:
            for number in range(-self.options.warm_up, self.options.rounds):
                yield tokens, number
            print(f"{tokens} tokens done", flush=True)

    def _whole_blocks(self, tokens: int) -> int:
        """How many can be found: of the last one the answer is computed."""
        size = self.options.block_size
        return (tokens - 1) // size * size

    async def _ask(self, client: Client, stage: str, tokens: int, number: int, requests: Sequence[Request]) -> None:
        shift = number % len(requests)  # so that no route always follows the same one
        for request in (*requests[shift:], *requests[:shift]):
            row = await asked.ask(client, request.server, request.prompt, request.expected)
            if (token := row.pop("token", None)) is not None:
                row["same_token"] = token == self.tokens.setdefault(tuple(request.prompt), token)
            if number >= 0:
                self.results.add(TABLE, stage=stage, prompt_tokens=tokens, route=request.route, **row)
        self.results.write()
