from typing import get_args

import pytest

from loadtest.settings import LoadTestSettings, WorkloadName
from loadtest.workload import WORKLOADS, CompletionRequest
from stack.environment import load


def request_of(workload: WorkloadName, index: int = 0, **settings: int) -> CompletionRequest:
    chosen = load(LoadTestSettings, **{f"loadtest_{name}": value for name, value in settings.items()})
    return WORKLOADS[workload](chosen, "m", index)


def prompt_of(request: CompletionRequest) -> str:
    return str(request.body["prompt"] if "prompt" in request.body else request.body["messages"][0]["content"])


def test_every_name_has_a_workload() -> None:
    assert set(WORKLOADS) == set(get_args(WorkloadName))


@pytest.mark.parametrize("workload", get_args(WorkloadName))
def test_every_workload_streams_and_asks_for_the_token_count(workload: WorkloadName) -> None:
    body = request_of(workload, output_tokens=7).body
    assert body["model"] == "m"
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert body["max_tokens"] == 7


def test_curl_is_the_readme_s_curl() -> None:
    request = request_of("curl", index=3, output_tokens=1000)
    assert request.path == "/v1/completions"
    assert request.body == {
        "model": "m",
        "prompt": "San Francisco is a",
        "max_tokens": 1000,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(("workload", "path"), [("fixed", "/v1/completions"), ("chat", "/v1/chat/completions")])
class TestChosenLengths:
    @pytest.mark.parametrize("length", [1, 31, 32, 3000])
    def test_one_word_a_token(self, workload: WorkloadName, path: str, length: int) -> None:
        request = request_of(workload, input_tokens=length)
        assert request.path == path
        assert len(prompt_of(request).split(" ")) == length
        assert request.body["ignore_eos"] is True

    def test_seed_and_index_decide(self, workload: WorkloadName, path: str) -> None:
        assert request_of(workload, 5, seed=1) == request_of(workload, 5, seed=1)
        prompts = {prompt_of(request_of(workload, index, seed=seed)) for index in range(20) for seed in range(5)}
        assert len(prompts) == 100
