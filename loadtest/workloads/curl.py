"""The curl of the README: the same few tokens every time, which prefix caching makes cheap from the second on."""

from random import Random

from loadtest.settings import LoadTestSettings
from loadtest.workloads.request import COMPLETIONS, CompletionRequest, streamed
from loadtest.workloads.tokenizer import ServedTokenizer

PROMPT = "San Francisco is a"


class Curl:
    """The model decides where an answer ends, after LOADTEST_OUTPUT_TOKENS at most."""

    requests = None
    start_times = None

    def __init__(self, settings: LoadTestSettings, model: str, tokenizer: ServedTokenizer) -> None:
        self._seed = settings.loadtest_seed
        self._outputs = settings.output_lengths
        self._model = model
        self._input_tokens = tokenizer.count(PROMPT)

    def request(self, index: int) -> CompletionRequest:
        max_tokens = self._outputs.draw(Random(f"{self._seed}/{index}"))
        body = streamed(model=self._model, prompt=PROMPT, max_tokens=max_tokens)
        return CompletionRequest(COMPLETIONS, body, self._input_tokens)
