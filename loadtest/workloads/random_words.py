"""Prompts of random words, input and output of the chosen lengths, for `/v1/completions`.

Two prompts share no more than a word or two at their start, so nothing of them is in a prefix cache.
"""

from random import Random

from loadtest.settings import LoadTestSettings
from loadtest.workloads.request import COMPLETIONS, CompletionRequest, exactly, streamed
from loadtest.workloads.tokenizer import ServedTokenizer
from stack.configuration.environment import ConfigError


class RandomWords:
    """Lengths that the model's context cannot hold are refused where they are typical, and cut where they are drawn."""

    requests = None
    start_times = None

    def __init__(self, settings: LoadTestSettings, model: str, tokenizer: ServedTokenizer) -> None:
        self._seed = settings.loadtest_seed
        self._inputs, self._outputs = settings.input_lengths, settings.output_lengths
        self._model = model
        self._tokenizer = tokenizer
        self._longest = tokenizer.context_tokens
        typical = self._inputs.typical + self._outputs.typical
        if self._longest is not None and typical > self._longest:
            raise ConfigError(
                [
                    f"LOADTEST_INPUT_TOKENS={settings.loadtest_input_tokens!r}: with LOADTEST_OUTPUT_TOKENS="
                    f"{settings.loadtest_output_tokens} {typical} tokens; {model} holds {self._longest}"
                ]
            )

    def request(self, index: int) -> CompletionRequest:
        rng = Random(f"{self._seed}/{index}")
        tokenizer = self._tokenizer
        output_tokens = self._outputs.draw(rng)
        input_tokens = self._inputs.draw(rng)
        if self._longest is not None:
            output_tokens = min(output_tokens, self._longest - tokenizer.shortest_prompt)
            input_tokens = min(input_tokens, self._longest - output_tokens)
        input_tokens = max(input_tokens, tokenizer.shortest_prompt)
        prompt = tokenizer.text(tokenizer.words(rng, input_tokens - tokenizer.shortest_prompt))
        body = streamed(model=self._model, prompt=prompt, **exactly(output_tokens))
        return CompletionRequest(COMPLETIONS, body, tokenizer.known(input_tokens), output_tokens)
