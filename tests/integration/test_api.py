"""What a client of the whole stack sees: OpenAI's API, with honest errors."""

import json
import subprocess
import urllib.error
import urllib.request
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.real_stack import MAX_MODEL_LEN, MODEL, PlainVllm, RealStack, metrics, post

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Name three cities by the sea."}]


@pytest.fixture
def client(stack: RealStack) -> openai.OpenAI:
    return openai.OpenAI(base_url=stack.api_url + "/v1", api_key="any", max_retries=0)


def test_curl_of_the_seed_document(stack: RealStack) -> None:
    """Word for word, but for the model's name and the port of this test's stack."""
    curl = """curl -s http://localhost:8000/v1/completions -H "Content-Type: application/json" -d '{
  "model": "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4",
  "prompt": "San Francisco is a",
  "max_tokens": 1000
}'"""
    command = curl.replace("http://localhost:8000", stack.api_url).replace("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", MODEL)
    output = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=180, check=True).stdout
    answer = json.loads(output)
    assert answer["object"] == "text_completion"
    assert len(answer["choices"][0]["text"]) > 20
    assert answer["usage"]["prompt_tokens"] == 4
    assert answer["kv_transfer_params"]["transport"] == "tcp"
    assert answer["kv_transfer_params"]["bytes"] > 0


def test_chat_equals_a_plain_server(client: openai.OpenAI, plain: PlainVllm) -> None:
    direct = openai.OpenAI(base_url=plain.url + "/v1", api_key="any", max_retries=0)
    answers = [
        c.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=24, temperature=0)
        for c in (client, direct)
    ]
    through_stack, plainly = answers
    assert through_stack.choices[0].message.content == plainly.choices[0].message.content
    assert through_stack.choices[0].finish_reason == plainly.choices[0].finish_reason
    assert through_stack.usage is not None
    assert plainly.usage is not None
    assert through_stack.usage.completion_tokens == plainly.usage.completion_tokens


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_a_stream_carries_the_same_text(client: openai.OpenAI, api: str) -> None:
    settings: dict[str, Any] = {"model": MODEL, "max_tokens": 24, "temperature": 0}
    if api == "chat":
        whole = client.chat.completions.create(messages=QUESTION, **settings).choices[0].message.content
        stream = client.chat.completions.create(messages=QUESTION, stream=True, **settings)
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    else:
        whole = client.completions.create(prompt="The sea is", **settings).choices[0].text
        stream = client.completions.create(prompt="The sea is", stream=True, **settings)
        pieces = [chunk.choices[0].text for chunk in stream]
    assert "".join(pieces) == whole
    assert sum(map(bool, pieces)) > 10, "tokens come one by one"


def test_models_and_instances(stack: RealStack, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    with urllib.request.urlopen(stack.api_url + "/instances", timeout=10) as response:
        text = response.read().decode()
    assert stack.prefill_url in text
    assert stack.decode_url in text


def test_errors_are_honest(stack: RealStack, client: openai.OpenAI) -> None:
    held = metrics(stack.decode_url)["vllm:kv_cache_usage_perc"]
    with pytest.raises(openai.NotFoundError, match="no-such-model"):
        client.completions.create(model="no-such-model", prompt="x")
    with pytest.raises(openai.BadRequestError, match=str(MAX_MODEL_LEN)):
        client.completions.create(model=MODEL, prompt=[1] * (MAX_MODEL_LEN + 1), max_tokens=1)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.completions.create(model=MODEL, prompt="x", temperature=-1)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        post(stack.api_url + "/v1/completions", {"model": MODEL})
    client.completions.create(model=MODEL, prompt="and it goes on", max_tokens=2)
    assert metrics(stack.decode_url)["vllm:kv_cache_usage_perc"] == held
