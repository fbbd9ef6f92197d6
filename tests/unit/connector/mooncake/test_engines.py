"""Several engines over one memory. Mooncake's own are tested with the real ones, in tests/integration."""

import logging
import re
from collections.abc import Callable, Sequence

import pytest

from connector.cache.pieces import Piece
from connector.mooncake.engine import TransferError
from connector.mooncake.engines import Engines
from connector.mooncake.polled_write import always
from connector.mooncake.transports import host_identity

PIECES = [Piece(0, 8, 8)]


class RecordingEngine:
    def __init__(self, segment: str) -> None:
        self.segment = segment
        self.registered: list[tuple[int, int]] = []
        self.writes: list[tuple[str, Sequence[Piece]]] = []

    def register(self, address: int, length: int) -> None:
        self.registered.append((address, length))

    def write(self, segment: str, pieces: Sequence[Piece], wanted: Callable[[], bool] = always) -> None:
        self.writes.append((segment, pieces))

    def close(self) -> None:
        self.segment = ""


class RefusingEngine(RecordingEngine):
    def register(self, address: int, length: int) -> None:
        raise TransferError(f"no {self.segment} here")


def test_all_know_the_memory_and_a_write_goes_through_the_one_of_its_transport() -> None:
    rdma, tcp = RecordingEngine("p-rdma"), RecordingEngine("p-tcp")
    engines = Engines({"rdma": rdma, "tcp": tcp}, RecordingEngine)
    assert engines.segments == {"rdma": "p-rdma", "tcp": "p-tcp"}
    engines.register(4096, 10)
    assert rdma.registered == tcp.registered == [(4096, 10)]
    engines.write("tcp", "d-tcp", PIECES)
    assert (tcp.writes, rdma.writes) == ([("d-tcp", PIECES)], [])


def test_an_engine_that_refuses_the_memory_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    engines = Engines({"rdma": RefusingEngine("p-rdma"), "tcp": RecordingEngine("p-tcp")}, RecordingEngine)
    engines.register(4096, 10)
    assert engines.segments == {"tcp": "p-tcp"}
    assert "left out: no p-rdma here" in caplog.text


def test_when_all_refuse_the_reasons_are_told() -> None:
    engines = Engines({"rdma": RefusingEngine("p-rdma"), "tcp": RefusingEngine("p-tcp")}, RecordingEngine)
    with pytest.raises(TransferError, match=r"^no p-rdma here; no p-tcp here$"):
        engines.register(4096, 10)


def test_the_transport_for_a_peer_is_told_once_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    engines = Engines(
        {"nvlink_intra": RecordingEngine("p-nvlink_intra"), "tcp": RecordingEngine("p-tcp")}, RecordingEngine
    )
    theirs = {"nvlink_intra": "d-nvlink_intra", "tcp": "d-tcp"}
    for _ in range(2):
        assert engines.choose(theirs, host_identity()) == "nvlink_intra"
        assert engines.choose(theirs, "elsewhere") == "tcp"
    offers = "the best in common: nvlink_intra, tcp here, nvlink_intra, tcp on"
    assert caplog.messages == [
        f"KV cache for d-nvlink_intra goes over nvlink_intra, {offers} the same host",
        f"KV cache for d-tcp goes over tcp, {offers} another host, PID namespace or set of GPUs",
    ]


@pytest.mark.parametrize(
    ("segments", "identity", "line"),
    [
        ({"rdma": "d"}, host_identity(), "no common transport: nvlink_intra here, rdma on the same host"),
        (
            {"nvlink_intra": "d"},
            "x",
            "no common transport: nvlink_intra here, nvlink_intra on another host, PID namespace o",
        ),
        ({}, host_identity(), "no common transport: nvlink_intra here, none on the same host"),
    ],
)
def test_no_transport_for_a_peer(segments: dict[str, str], identity: str, line: str) -> None:
    engines = Engines({"nvlink_intra": RecordingEngine("p-nvlink_intra")}, RecordingEngine)
    with pytest.raises(TransferError, match=re.escape(line)):
        engines.choose(segments, identity)
