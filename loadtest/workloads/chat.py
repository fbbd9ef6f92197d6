"""Chats of several turns: every turn sends the whole talk so far, so its prompt begins with the last turn's prompt.

What comes when. Requests come in blocks of LOADTEST_CHAT_SESSIONS chats with LOADTEST_CHAT_TURNS turns each, the first
turn of all chats first: turn t of a chat is sent LOADTEST_CHAT_SESSIONS requests after its turn t - 1. With more chats
than requests under way the answer to turn t - 1 is there by then, and its prompt in the prefix caches.

What a turn is. It adds LOADTEST_INPUT_TOKENS to the prompt, what the chat template puts around them included, and asks
for LOADTEST_OUTPUT_TOKENS. The answers within a prompt are not the model's own: they are synthetic texts of the length
that was asked for, so that every request is known from seed and index alone and no request has to wait for another.
So prompts are found in prefix caches, but answers that an instance generated are not.
"""

from itertools import pairwise
from random import Random

from loadtest.settings import LoadTestSettings
from loadtest.workloads.request import CHAT_COMPLETIONS, CompletionRequest, exactly, streamed
from loadtest.workloads.tokenizer import Messages, ServedTokenizer
from stack.configuration.environment import ConfigError


class Chat:
    requests = None
    start_times = None

    def __init__(self, settings: LoadTestSettings, model: str, tokenizer: ServedTokenizer) -> None:
        """Raises: ConfigError: the chats outgrow the model's context; RequestFailed: the target could not be asked."""
        self._seed = settings.loadtest_seed
        self._sessions, self._turns = settings.loadtest_chat_sessions, settings.loadtest_chat_turns
        self._inputs, self._outputs = settings.input_lengths, settings.output_lengths
        self._model = model
        self._tokenizer = tokenizer
        self._longest = tokenizer.context_tokens
        # What each turn adds if all messages are the lead alone; a template need not treat every turn alike.
        bare = [tokenizer.count_chat(_messages([tokenizer.lead] * (2 * turn + 1))) for turn in range(self._turns)]
        added = [bare[0], *(later - earlier for earlier, later in pairwise(bare))]
        self._least_output = tokenizer.lead_tokens
        self._least_inputs = [added[0], *(tokens - self._least_output for tokens in added[1:])]
        typical = sum(max(least, self._inputs.typical) for least in self._least_inputs)
        typical += self._turns * max(self._least_output, self._outputs.typical)
        if self._longest is not None and typical > self._longest:
            raise ConfigError(
                [
                    f"LOADTEST_CHAT_TURNS={self._turns}: chats grow to {typical} tokens (all turns' input and output); "
                    f"{model} holds {self._longest}"
                ]
            )
        last = self.request((self._turns - 1) * self._sessions)
        counted = tokenizer.count_chat(last.body["messages"])
        if last.input_tokens not in (None, counted):
            self._tokenizer = tokenizer.not_exact(f"{last.input_tokens} tokens of a chat are {counted} for the target")

    def request(self, index: int) -> CompletionRequest:
        block, within = divmod(index, self._sessions * self._turns)
        turn, session = divmod(within, self._sessions)
        rng = Random(f"{self._seed}/{block * self._sessions + session}")
        inputs, outputs = self._lengths(rng)
        texts = []
        for number in range(turn + 1):
            texts.append(self._text(rng, inputs[number] - self._least_inputs[number]))
            texts.append(self._text(rng, outputs[number] - self._least_output))
        body = streamed(model=self._model, messages=_messages(texts[:-1]), **exactly(outputs[turn]))
        input_tokens = sum(inputs[: turn + 1]) + sum(outputs[:turn])
        return CompletionRequest(CHAT_COMPLETIONS, body, self._tokenizer.known(input_tokens), outputs[turn])

    def _text(self, rng: Random, words: int) -> str:
        return self._tokenizer.text(self._tokenizer.words(rng, words))

    def _lengths(self, rng: Random) -> tuple[list[int], list[int]]:
        """Inputs and outputs of one chat's turns, shortened in proportion where the context could not hold them all."""
        least = self._least_inputs + [self._least_output] * self._turns
        drawn = [lengths.draw(rng) for lengths in (self._inputs, self._outputs) for _ in range(self._turns)]
        words = [max(0, tokens - fewest) for tokens, fewest in zip(drawn, least, strict=True)]
        if self._longest is not None and sum(words) > (room := self._longest - sum(least)):
            words = [number * room // sum(words) for number in words]
        lengths = [fewest + number for fewest, number in zip(least, words, strict=True)]
        return lengths[: self._turns], lengths[self._turns :]


def _messages(texts: list[str]) -> Messages:
    """The user begins, then assistant and user take turns."""
    return [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(texts)]
