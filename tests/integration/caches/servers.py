"""A plain server, a producer and a consumer of one model, and the comparison of their answers."""

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from stack.instances.record import Role
from tests.integration.caches import answers
from tests.integration.caches.answers import AT_ONCE, Answer
from tests.integration.caches.models import MAX_MODEL_LEN, Served
from tests.real_stack import metrics, wait_until
from tests.tiny_models import END_OF_TEXT
from tests.tiny_servers.instances import Fleet, Server, Serving, Tokens

log = logging.getLogger(__name__)

IDLE_LIMIT_S = 60
MOST_REQUESTS = 16  # at work in one server
# Layers leave one by one from the first token on: by default only long prompts' do. Without checksums a cache that did
# not come is used as it is, so that the comparison has to notice it.
COMMON = {"KV_STREAM_MIN_TOKENS": "0", "TRANSFER_CHECKSUM": "false", "MAX_MODEL_LEN": str(MAX_MODEL_LEN)}


@dataclass(frozen=True)
class Trio:
    """`served`: the model that all three have."""

    served: Served
    plain: Server
    producer: Server
    consumer: Server
    _noise: list[float] = field(default_factory=list)  # measured when it is first asked for

    @classmethod
    def start(
        cls,
        fleet: Fleet,
        models_folder: Path,
        served: Served,
        ranks: Mapping[Role, int] | None = None,
        arguments: Mapping[Role, str] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Self:
        """When it returns they are up. `arguments`: more of vLLM's; `variables`: more of the launcher's."""

        def start(role: Role) -> Server:
            serving = Serving(
                models_folder / served.name,
                served.block_size,
                served.dtype,
                f"{served.arguments} --max-num-seqs {MOST_REQUESTS} {(arguments or {}).get(role, '')}",
                COMMON | {"MAX_NUM_BATCHED_TOKENS": str(served.step_tokens)} | dict(variables or {}),
            )
            return fleet.start(role, serving, (ranks or {}).get(role, 1))

        started = cls(served, start("aggregated"), start("prefill"), start("decode"))
        fleet.wait()
        return started

    def prompts(self, name: str, lengths: Sequence[int]) -> list[Tokens]:
        """The same in each run."""
        numbers = random.Random(f"{name} {self.served.name}")
        return [[numbers.randrange(END_OF_TEXT) for _ in range(length)] for length in lengths]

    async def transferred(self, prompts: Sequence[Tokens], at_once: int = AT_ONCE, **more: Any) -> list[Answer]:
        return await answers.transferred(self.producer, self.consumer, prompts, at_once, **more)

    async def different(self, prompts: Sequence[Tokens], found: Sequence[Answer], **more: Any) -> dict[int, float]:
        """Of the answers that are not the plain server's: how far they are from them, by length of the prompt."""
        expected = await answers.plain(self.plain, prompts, **more)
        tolerance = self.served.tolerance or 3 * await self.noise()
        different = {}
        largest = 0.0
        for prompt, wanted, got in zip(prompts, expected, found, strict=True):
            distance = wanted.distance(got)
            largest = max(largest, distance)
            other_tokens = self.served.tolerance is not None and wanted.tokens != got.tokens
            if distance > tolerance or other_tokens:
                different[len(prompt)] = distance
        log.info("%s: largest difference %.2g of %.2g that are allowed", self.served.name, largest, tolerance)
        return different

    async def noise(self) -> float:
        """How far the plain server's own answers are apart, alone and beside others: its steps then end elsewhere."""
        if not self._noise:
            prompts = self.prompts("noise", range(20, 700, 20))
            alone, together = [await answers.plain(self.plain, prompts, at_once) for at_once in (1, AT_ONCE)]
            self._noise.append(max(one.distance(other) for one, other in zip(alone, together, strict=True)))
        return self._noise[0]

    async def assert_same(self, prompts: Sequence[Tokens], at_once: int = AT_ONCE, **more: Any) -> list[dict[str, Any]]:
        """By a transfer come the plain server's answers. Returns: facts of the transfers."""
        found = await self.transferred(prompts, at_once, **more)
        different = await self.different(prompts, found)
        assert not different, f"log probabilities differ, by tokens in the prompt: {different}"
        computed = [
            len(prompt)
            for prompt, answer in zip(prompts, found, strict=True)
            if len(prompt) > 1 and not (answer.facts and answer.facts["bytes"])  # the last token is always computed
        ]
        assert not computed, f"prompts of {computed} tokens were computed by the consumer:\n{self.consumer.log[-3000:]}"
        return [answer.facts or {} for answer in found]

    def assert_idle(self) -> None:
        """Nothing is held any more, on either side."""
        for server in (self.producer, self.consumer):
            wait_until(server.is_idle, IDLE_LIMIT_S, f"{server.url} holds no block")

    def free_blocks(self) -> tuple[float, float]:
        """Of the producer and the consumer, which are idle."""
        self.assert_idle()
        producer, consumer = (metrics(server.url)["pd_kv_free_blocks"] for server in (self.producer, self.consumer))
        return producer, consumer
