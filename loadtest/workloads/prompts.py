"""A user's own prompts: a file of one JSON object a line, each sent once, in the file's order.

A line has a `prompt` (text or token ids; goes to `/v1/completions`) or `messages` (goes to `/v1/chat/completions`). All
its other members (`max_tokens`, `temperature`, `tools` …) are sent as they are. Without `max_tokens` an answer ends
after LOADTEST_OUTPUT_TOKENS at most, and without `ignore_eos` where the model ends it.
"""

from random import Random
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from loadtest.settings import LoadTestSettings
from loadtest.workloads import jsonl
from loadtest.workloads.request import CHAT_COMPLETIONS, COMPLETIONS, CompletionRequest, streamed
from loadtest.workloads.tokenizer import ServedTokenizer


class PromptLine(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    prompt: str | list[int] | None = None
    messages: list[dict[str, Any]] | None = None

    @model_validator(mode="after")
    def _is_one_streamed_request(self) -> "PromptLine":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("expected either `prompt` or `messages`")
        if (self.model_extra or {}).get("stream", True) is not True:
            raise ValueError("stream: the load test measures streams; leave it out")
        return self


class Prompts:
    start_times = None

    def __init__(self, settings: LoadTestSettings, model: str, tokenizer: ServedTokenizer) -> None:
        """Raises: ConfigError."""
        assert settings.loadtest_prompts_file is not None  # the settings see to it
        self._lines = jsonl.read(settings.loadtest_prompts_file, PromptLine, "LOADTEST_PROMPTS_FILE")
        self._seed = settings.loadtest_seed
        self._outputs = settings.output_lengths
        self._model = model

    @property
    def requests(self) -> int:
        return len(self._lines)

    def request(self, index: int) -> CompletionRequest:
        line = self._lines[index]
        given = line.model_dump(exclude_unset=True)
        limits = given.keys() & {"max_tokens", "max_completion_tokens"}
        asked = {} if limits else {"max_tokens": self._outputs.draw(Random(f"{self._seed}/{index}"))}
        body = streamed(**({"model": self._model} | asked | given))
        return CompletionRequest(CHAT_COMPLETIONS if line.prompt is None else COMPLETIONS, body)
