"""What a comparison's document says of each side."""

import pytest

from benchmarks.serving.report.document import instances
from loadtest.runs.manifest import Manifest


@pytest.mark.parametrize(
    ("known", "servers", "told"),
    [
        ([{"role": "prefill"}, {"role": "decode"}, {"role": "decode"}], [], "2 decode, 1 prefill"),
        ([], [["vllm"], ["vllm"]], "2 servers"),
    ],
)
def test_servers_are_counted_where_no_instance_is_named(
    known: list[dict[str, object]], servers: list[list[str]], told: str
) -> None:
    assert instances(Manifest.model_construct(instances=known), servers) == told
