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
from stack.environment import ConfigError


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
        typical = self._turns * (self._inputs.typical + self._outputs.typical)
        if self._longest is not None and typical > self._longest:
            raise ConfigError(
                [
                    f"LOADTEST_CHAT_TURNS={self._turns}: chats grow to {typical} tokens (turns x (input + output)); "
                    f"{model} holds {self._longest}"
                ]
            )
        # What each turn adds if all messages are the lead alone; a template need not treat every turn alike.
        bare = [tokenizer.count_chat(_messages([tokenizer.lead] * (2 * turn + 1))) for turn in range(self._turns)]
        self._around = [bare[0], *(later - earlier for earlier, later in pairwise(bare))]
        longest = self.request((self._turns - 1) * self._sessions)
        counted = tokenizer.count_chat(longest.body["messages"])
        if longest.input_tokens not in (None, counted):
            self._tokenizer = tokenizer.not_exact(f"{longest.input_tokens} tokens of a chat are {counted}")

    def request(self, index: int) -> CompletionRequest:
        block, within = divmod(index, self._sessions * self._turns)
        turn, session = divmod(within, self._sessions)
        rng = Random(f"{self._seed}/{block * self._sessions + session}")
        inputs, outputs = self._lengths(rng)
        tokenizer = self._tokenizer
        texts: list[str] = []
        input_tokens = 0
        for number in range(turn + 1):
            missing = inputs[number] - self._around[number]
            if number:
                answered = outputs[number - 1]
                answer = tokenizer.words(rng, answered - tokenizer.lead_tokens)
                texts.append(tokenizer.text(answer))
                input_tokens += len(answer)
                missing += answered - len(answer)
            question = tokenizer.words(rng, missing)
            texts.append(tokenizer.text(question))
            input_tokens += len(question) + self._around[number]
        body = streamed(model=self._model, messages=_messages(texts), **exactly(outputs[turn]))
        return CompletionRequest(CHAT_COMPLETIONS, body, tokenizer.known(input_tokens), outputs[turn])

    def _lengths(self, rng: Random) -> tuple[list[int], list[int]]:
        """Of one chat's turns; shortened in proportion if together they were more than the model's context holds."""
        inputs = [self._inputs.draw(rng) for _ in range(self._turns)]
        outputs = [self._outputs.draw(rng) for _ in range(self._turns)]
        total = sum(inputs) + sum(outputs)
        if self._longest is not None and total > self._longest:
            inputs = [max(1, tokens * self._longest // total) for tokens in inputs]
            outputs = [max(1, tokens * self._longest // total) for tokens in outputs]
        return inputs, outputs


def _messages(texts: list[str]) -> Messages:
    """The user begins, then assistant and user take turns."""
    return [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(texts)]
