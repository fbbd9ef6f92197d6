"""What is profiled, and whether it is quiet enough."""

import pytest

from benchmarks.errors import CannotStart
from benchmarks.profile.options import parse
from benchmarks.profile.quiet import unquiet
from benchmarks.profile.running_stack import kv_cache, pair, requests_in_hand, routes
from stack.instances.record import Engine, Instance, Role

METRICS = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:cache_config_info{block_size="32",engine="0",num_gpu_blocks="1600"} 1.0
"""


def instance(role: Role, fingerprint: str = "same", engines: tuple[Engine, ...] = ()) -> Instance:
    return Instance(
        role=role,
        instance_id=f"{role}-1",
        url=f"http://{role}",
        served_models=("m",),
        model="m",
        max_model_len=4096,
        block_size=32,
        dtype="float32",
        tensor_parallel_size=1,
        fingerprint=fingerprint,
        kv_transfer={"port": 1},
        engines=engines,
        vllm_version="",
        connector_version="",
        started_at=0.0,
    )


def test_a_pair_and_its_routes() -> None:
    producer, consumer = pair([instance("decode", "other"), instance("prefill"), instance("decode")])
    assert consumer.fingerprint == producer.fingerprint
    found = routes(producer, consumer, "http://proxy")
    assert (found.consumer.decode_url, found.consumer.prefill_url) == ("http://decode", "")
    assert found.pair.prefill_url == "http://prefill"
    assert [way.consumer_params for way in found.pair.ways] == [{"producer": {"port": 1}}]
    assert found.proxy.decode_url == "http://proxy"


@pytest.mark.parametrize(
    ("records", "line"),
    [
        ([], r"no prefill and decode instance that pair \(registered: none\)"),
        ([instance("aggregated")], r"registered: aggregated\): `make up`"),
        ([instance("prefill"), instance("decode", "other")], "registered: decode, prefill"),
        ([instance("prefill"), instance("decode", engines=(Engine(rank=0),))], "data-parallel engines"),
    ],
)
def test_stacks_that_cannot_be_profiled(records: list[Instance], line: str) -> None:
    with pytest.raises(CannotStart, match=line):
        pair(records)


def test_the_kv_cache_and_what_is_in_hand() -> None:
    assert kv_cache(METRICS) == (51_200, 32)
    assert requests_in_hand(METRICS) == 3
    with pytest.raises(CannotStart, match="cache_config_info"):
        kv_cache("nothing")


def test_quiet() -> None:
    steady = [0.1, 0.101, 0.099, 0.1, 0.1]
    assert unquiet(steady) is None
    assert unquiet(steady, [0.11] * 5) is None
    assert unquiet([0.1, 0.2, 0.1, 0.2, 0.15]) == (
        "not quiet: before the measurements half of 5 small requests are 67% of their median apart, "
        "expected at most 30%"
    )
    assert unquiet(steady, [0.13] * 5) == (
        "not quiet: small requests take +30% after the measurements, expected at most 20% more or less"
    )


def test_too_few_repeats_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(["--repeats", "2"])
    assert "'2': expected 3 or more" in capsys.readouterr().err
