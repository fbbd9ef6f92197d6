from tests.unit.loadtest.workloads.conftest import Make, of_every_kind
from tests.unit.loadtest.workloads.served import MODEL, Target


@of_every_kind
def test_it_is_the_curl_of_the_readme(make: Make, target: Target) -> None:
    request = make("curl", output_tokens="1000").request(3)
    assert request.path == "/v1/completions"
    assert request.body == {
        "model": MODEL,
        "prompt": "San Francisco is a",
        "max_tokens": 1000,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert request.input_tokens == len(target.tokens(request.body))
    assert request.output_tokens is None  # the model ends it
