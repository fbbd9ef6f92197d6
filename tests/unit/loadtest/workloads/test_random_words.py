import pytest

from loadtest.workloads import ServedTokenizer
from stack.configuration.environment import ConfigError
from tests.unit.loadtest.workloads.conftest import Make, of_every_kind
from tests.unit.loadtest.workloads.served import CONTEXT_TOKENS, MODEL, Target


@of_every_kind
@pytest.mark.parametrize("length", ["5", "16", "1000", "uniform:1-700", "normal:200,90", "lognormal:300,1.2"])
def test_a_prompt_has_exactly_the_tokens_it_says(make: Make, target: Target, length: str) -> None:
    workload = make("random", input_tokens=length, output_tokens="7")
    for index in range(30):
        request = workload.request(index)
        assert request.path == "/v1/completions"
        assert len(target.tokens(request.body)) == request.input_tokens
        assert request.output_tokens == 7
    if length.isdecimal():
        assert request.input_tokens == int(length)


def test_the_body_streams_and_is_exact(make: Make) -> None:
    request = make("random", input_tokens="20", output_tokens="9").request(3)
    assert request.body == {
        "model": MODEL,
        "prompt": request.body["prompt"],
        "max_tokens": 9,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_prompt_is_no_shorter_than_its_tokenizer_allows(make: Make, target: Target) -> None:
    shortest = ServedTokenizer.of(target, MODEL).shortest_prompt
    assert make("random", input_tokens="1").request(0).input_tokens == shortest


def test_prompts_share_nothing_that_a_prefix_cache_could_hold(make: Make, target: Target) -> None:
    workload = make("random", input_tokens="64")
    starts = {tuple(target.tokens(workload.request(index).body)[:16]) for index in range(1000)}
    assert len(starts) == 1000


def test_drawn_lengths_end_where_the_context_does(make: Make) -> None:
    workload = make("random", input_tokens="lognormal:1000,2", output_tokens="lognormal:1000,2")
    totals = []
    for index in range(100):
        request = workload.request(index)
        assert request.input_tokens is not None
        assert request.output_tokens is not None
        assert request.output_tokens >= 1
        totals.append(request.input_tokens + request.output_tokens)
    assert max(totals) == CONTEXT_TOKENS


def test_lengths_that_no_request_could_have_are_refused(make: Make) -> None:
    with pytest.raises(ConfigError) as raised:
        make("random", input_tokens="4000", output_tokens="100")
    assert raised.value.lines == [
        "LOADTEST_INPUT_TOKENS='4000': with LOADTEST_OUTPUT_TOKENS=100 4100 tokens; m holds 4096"
    ]
