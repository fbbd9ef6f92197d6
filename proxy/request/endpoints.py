"""The paths that take a prompt: which fields of their bodies matter, and how their streams and errors look.

The facts are vLLM 0.32's, proven against a plain server by tests/integration/proxy. A path that is neither here nor in
`proxy.status` is a 404.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


def _as_it_is(openai_error: bytes) -> bytes:
    return openai_error


def _anthropic_error(openai_error: bytes) -> bytes:
    error = json.loads(openai_error)["error"]
    return json.dumps({"type": "error", "error": {"type": error.get("type"), "message": error.get("message")}}).encode()


@dataclass(frozen=True, eq=False)
class Endpoint:
    """One path.

    both_legs: it generates, so its KV cache can come from a producer; else any one instance of the model answers.
    limits: the fields that bound the output's tokens; the first that is given counts, and the prefill leg gets 1.
    output_only: fields that shape the output and not the prompt, with the value that switches each off: the prefill leg
    has no use for them, and some would make it fail. What a chat template can read (tools, tool_choice,
    response_format, …) must not be here, nor `suffix`: both legs have to see the same prompt. Nor `structured_outputs`:
    the answer's first token is the producer's, and has to obey the grammar.
    preamble: names of the events that vLLM sends before the first token, when nothing is certain yet.
    end: how the last event of a whole stream begins.
    sign_of_life: what a stream's client skips, for when nothing else is to be sent.
    takes_request_id: whether vLLM takes an id from the body's `request_id` where no header gives one.
    takes_rank: whether vLLM sends it to the engine that X-data-parallel-rank names; else it chooses one by itself.
    error_body: turns an error of the proxy's own from OpenAI's form into the API's; error_event: its head in a stream.
    """

    path: str
    both_legs: bool = True
    limits: tuple[str, ...] = ("max_tokens",)
    output_only: Mapping[str, Any] = field(default_factory=dict)
    preamble: frozenset[bytes] = frozenset()
    end: bytes = b"data: [DONE]"
    sign_of_life: bytes = b": alive\n\n"
    takes_request_id: bool = False
    takes_rank: bool = True
    error_body: Callable[[bytes], bytes] = _as_it_is
    error_event: bytes = b"data: "

    def first_data(self, events: bytes) -> bytes | None:
        """The data of the first event of the model's answer, None while there is none.

        Args: events: whole events; keep-alive comments have no data.
        """
        begin = 0
        while begin < len(events):
            end = events.find(b"\n\n", begin)
            lines = events[begin : end if end >= 0 else None].split(b"\n")
            begin = end + 2 if end >= 0 else len(events)
            if any(line.startswith(b"event:") and line[6:].strip() in self.preamble for line in lines):
                continue
            data = [line[5:].lstrip() for line in lines if line.startswith(b"data:")]
            if data:
                return b"\n".join(data)
        return None

    def is_whole(self, events: bytes) -> bool:
        """Whether `events`, the last that came, end with the one that says that the answer is complete."""
        return events[:-2].rpartition(b"\n\n")[2].startswith(self.end)

    def as_events(self, answer: bytes) -> bytes:
        """A whole answer for a client to whom events were promised."""
        end = self.end + b"\n\n" if self.end.startswith(b"data: ") else b""
        return b"data: " + answer.replace(b"\n", b"\ndata: ") + b"\n\n" + end

    def failed(self, openai_error: bytes) -> bytes:
        """The event that ends a stream which cannot go on."""
        return self.error_event + self.error_body(openai_error) + b"\n\n"


_TEXT_OUTPUT = {"stream_options": None, "min_tokens": 0, "return_token_ids": None}

COMPLETIONS = Endpoint(
    "/v1/completions",
    takes_request_id=True,
    output_only={**_TEXT_OUTPUT, "echo": False, "logprobs": None, "logprob_token_ids": None},
)
CHAT = Endpoint(
    "/v1/chat/completions",
    limits=("max_completion_tokens", "max_tokens"),
    takes_request_id=True,
    output_only={
        **_TEXT_OUTPUT,
        "logprobs": False,
        "top_logprobs": 0,
        "logprob_token_ids": None,
        "return_prompt_text": None,
    },
)
RESPONSES = Endpoint(
    "/v1/responses",
    limits=("max_output_tokens",),
    takes_request_id=True,
    takes_rank=False,
    output_only={"include": None, "top_logprobs": 0, "enable_response_messages": False},
    preamble=frozenset({b"response.created", b"response.in_progress"}),
    end=b"event: response.completed\n",
)
MESSAGES = Endpoint(
    "/v1/messages",
    end=b"event: message_stop\n",
    sign_of_life=b'event: ping\ndata: {"type": "ping"}\n\n',
    error_body=_anthropic_error,
    error_event=b"event: error\ndata: ",
)
COUNT_TOKENS = Endpoint("/v1/messages/count_tokens", both_legs=False, error_body=_anthropic_error)
TOKENIZE = Endpoint("/tokenize", both_legs=False)
DETOKENIZE = Endpoint("/detokenize", both_legs=False)

ENDPOINTS = (COMPLETIONS, CHAT, RESPONSES, MESSAGES, COUNT_TOKENS, TOKENIZE, DETOKENIZE)
