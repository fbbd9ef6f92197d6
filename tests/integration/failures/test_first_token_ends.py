"""The producer's one token is EOS or completes a stop string: a normal, short answer, from blocks that arrived."""

from typing import Any

import pytest

from tests.integration.failures.conftest import Prompts
from tests.integration.failures.failure_stack import FailureStack
from tests.integration.failures.legs import until_equal
from tests.real_stack import MODEL, post

END_OF_TEXT = 2  # <|im_end|>, EOS of SmolLM2-Instruct


@pytest.mark.parametrize("end", ["EOS", "stop string", "stop token"])
async def test_first_token_ends_the_answer(stack: FailureStack, prompts: Prompts, end: str) -> None:
    (prompt,) = prompts(200)
    body: dict[str, Any] = {"model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 8}
    received, failed = stack.received(), stack.failures()
    if end == "EOS":
        body["logit_bias"] = {str(END_OF_TEXT): 100}
    else:
        first = post(stack.producer.url + "/v1/completions", body | {"max_tokens": 1, "return_token_ids": True})[
            "choices"
        ][0]
        body |= {"stop": [first["text"]]} if end == "stop string" else {"stop_token_ids": first["token_ids"]}

    found = post(stack.api_url + "/v1/completions", body)
    expected = post(stack.producer.url + "/v1/completions", body)
    for answer in (found, expected):
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["usage"]["completion_tokens"] == 1
    assert found["choices"][0]["text"] == expected["choices"][0]["text"]
    await until_equal(stack.received, received + 1)
    assert stack.failures() == failed
