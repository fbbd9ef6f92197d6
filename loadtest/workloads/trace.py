"""Replays a trace in Mooncake's format, in which equal blocks of prompts have equal ids.

A line: {"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids": [id of every 512 tokens]}
(https://github.com/kvcache-ai/Mooncake, FAST25-release/traces). A block's text is random words that its id decides, so
prompts that begin with the same ids begin with the same text, and prefix caches hit as they would have. The last block
ends where input_length says.

LOADTEST_TRACE_LENGTH_SCALE multiplies all lengths, the blocks' included, so that as much is shared as before;
LOADTEST_TRACE_TIME_SCALE multiplies the times between requests: 0.5 replays twice as fast.
"""

import math
from collections.abc import Sequence
from random import Random
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from loadtest.settings import LoadTestSettings
from loadtest.workloads import jsonl
from loadtest.workloads.request import COMPLETIONS, CompletionRequest, exactly, streamed
from loadtest.workloads.tokenizer import ServedTokenizer
from stack.configuration.environment import ConfigError

BLOCK_TOKENS = 512


class TraceLine(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    timestamp: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    input_length: Annotated[int, Field(ge=1)]
    output_length: Annotated[int, Field(ge=1)]
    hash_ids: list[int]

    @model_validator(mode="after")
    def _has_an_id_for_every_block(self) -> "TraceLine":
        blocks = -(-self.input_length // BLOCK_TOKENS)
        if len(self.hash_ids) != blocks:
            raise ValueError(
                f"expected {blocks} hash_ids, one for every {BLOCK_TOKENS} of {self.input_length} tokens, "
                f"found {len(self.hash_ids)}"
            )
        return self


class Trace:
    """In the order of their times."""

    def __init__(self, settings: LoadTestSettings, model: str, tokenizer: ServedTokenizer) -> None:
        """Raises: ConfigError: the file, or a line that is longer than the model's context."""
        assert settings.loadtest_trace_file is not None  # the settings see to it
        self._lines = jsonl.read(settings.loadtest_trace_file, TraceLine, "LOADTEST_TRACE_FILE")
        self._lines.sort(key=lambda line: line.timestamp)
        self._scale = settings.loadtest_trace_length_scale
        self._seed = settings.loadtest_seed
        self._model = model
        self._tokenizer = tokenizer
        self._check_context()
        first = self._lines[0].timestamp
        seconds = settings.loadtest_trace_time_scale / 1000
        self.start_times: Sequence[float] = [(line.timestamp - first) * seconds for line in self._lines]

    @property
    def requests(self) -> int:
        return len(self._lines)

    def request(self, index: int) -> CompletionRequest:
        line = self._lines[index]
        output_tokens = self._scaled(line.output_length)
        shortest = self._tokenizer.shortest_prompt
        input_tokens = max(shortest, self._scaled(line.input_length))
        pieces: list[str] = []
        for number, block_id in enumerate(line.hash_ids):
            # The lead, and what the tokenizer puts before it, take the place of the first block's first words.
            start, end = (round(edge * BLOCK_TOKENS * self._scale) for edge in (number, number + 1))
            words = self._tokenizer.words(Random(f"{self._seed}/{block_id}"), end - start)
            pieces += words[max(0, shortest - start) : input_tokens - start]
        body = streamed(model=self._model, prompt=self._tokenizer.text(pieces), **exactly(output_tokens))
        return CompletionRequest(COMPLETIONS, body, self._tokenizer.known(input_tokens), output_tokens)

    def _scaled(self, tokens: int) -> int:
        return max(1, round(tokens * self._scale))

    def _check_context(self) -> None:
        context = self._tokenizer.context_tokens
        if context is None:
            return
        lengths = [(line.input_length, line.output_length) for line in self._lines]
        too_long = sum(self._scaled(prompt) + self._scaled(answer) > context for prompt, answer in lengths)
        if too_long:
            longest = max(map(sum, lengths)) + 2  # each of the two may be rounded up
            fits = math.floor(context / longest * 10_000) / 10_000
            raise ConfigError(
                [
                    f"LOADTEST_TRACE_LENGTH_SCALE={self._scale:g}: {too_long} of {len(lengths)} requests are longer "
                    f"than the {context} tokens that {self._model} holds; expected at most {fits:g}"
                ]
            )
