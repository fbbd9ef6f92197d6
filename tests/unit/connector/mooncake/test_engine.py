"""What is refused at the start, and the negative control. Mooncake's own engine is scripted here, with a real etcd; the
real one is tested in tests/integration."""

import os
import re
import resource
import sys
import time
from collections.abc import Callable
from http.client import HTTPResponse, RemoteDisconnected
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from connector.cache.pieces import Piece
from connector.mooncake import engine, transports
from connector.mooncake.engine import LossyEngine, MooncakeEngine, TransferEngine, TransferError, UnendedWriteError
from stack import etcd
from stack.network.direct_http import open_directly
from tests.etcd_process import EtcdProcess
from tests.unit.connector.fakes import FakeEngine

PIECES = [Piece(0, 8, 8), Piece(100, 108, 2)]


class ScriptedMooncake:
    """Stands for `mooncake.engine.TransferEngine`: publishes `record` with memory, and answers with the codes given."""

    record: dict[str, Any]
    code_of_start = code_of_memory = code_of_batch = 0
    code_of_piece = 1

    def __init__(self) -> None:
        self.forced = {name for name in os.environ if name in {t.forced_by for t in transports.TRANSPORTS.values()}}

    def initialize(self, segment: str, metadata: str, protocol: str, device_name: str) -> int:
        self.segment, self.endpoint = segment, metadata.removeprefix("etcd://")
        return self.code_of_start

    def register_memory(self, address: int, length: int) -> int:
        with etcd.connect(self.endpoint) as client:
            client.put(f"mooncake/ram/{self.segment}", msgspec.json.encode(self.record).decode())
        return self.code_of_memory

    def transfer_submit_write(self, segment: str, source: int, target: int, length: int) -> int:
        return 7

    def transfer_check_status(self, number: int) -> int:
        return self.code_of_piece

    def batch_transfer_sync_write(
        self, segment: str, sources: list[int], targets: list[int], lengths: list[int]
    ) -> int:
        self.batch = (segment, sources, targets, lengths)
        return self.code_of_batch


@pytest.fixture
def mooncake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[ScriptedMooncake]:
    """A CUDA build on a machine with two RDMA devices."""
    for device in ("mlx5_0", "mlx5_1"):
        (tmp_path / "infiniband" / device).mkdir(parents=True)
    monkeypatch.setattr(transports, "RDMA_DEVICES", tmp_path / "infiniband")
    monkeypatch.setattr(os, "environ", dict(os.environ))

    class Scripted(ScriptedMooncake):
        pass

    package, module = ModuleType("mooncake"), ModuleType("mooncake.engine")
    vars(module).update(SUPPORT_INTRA_NVLINK=True, TransferEngine=Scripted)
    vars(package).update(engine=module)
    monkeypatch.setitem(sys.modules, "mooncake", package)
    monkeypatch.setitem(sys.modules, "mooncake.engine", module)
    return Scripted


Open = Callable[..., MooncakeEngine]


@pytest.fixture
def open_engine(mooncake: type[ScriptedMooncake], etcd_server: EtcdProcess) -> Open:
    def make(transport: str, device_name: str = "") -> MooncakeEngine:
        return MooncakeEngine("p-0", "127.0.0.1", etcd_server.endpoint, transport, device_name)

    return make


@pytest.mark.parametrize(
    ("transport", "device_name", "record"),
    [
        ("tcp", "", {"protocol": "tcp"}),
        ("tcp", "mlx5_0", {"protocol": "tcp"}),
        ("nvlink_intra", "", {"protocol": "nvlink_intra"}),
        ("rdma", "", {"protocol": "rdma", "devices": [{"name": "mlx5_0"}, {"name": "mlx5_1"}]}),
        ("rdma", "mlx5_1", {"protocol": "rdma", "devices": [{"name": "mlx5_1"}]}),
        ("rdma", "mlx5_1,mlx5_0", {"protocol": "rdma", "devices": [{"name": "mlx5_0"}, {"name": "mlx5_1"}]}),
    ],
)
def test_the_transport_asked_for(
    mooncake: type[ScriptedMooncake], open_engine: Open, transport: str, device_name: str, record: dict[str, Any]
) -> None:
    mooncake.record = record
    engine = open_engine(transport, device_name)
    engine.register(4096, 10)
    assert engine._engine.forced == {transports.TRANSPORTS[transport].forced_by}
    engine.write("d-0", PIECES)


@pytest.mark.parametrize(
    ("transport", "device_name", "record", "line"),
    [
        ("rdma", "", {"protocol": "tcp"}, "MOONCAKE_PROTOCOL='rdma': Mooncake took tcp instead, refusing to start"),
        ("nvlink_intra", "", {"protocol": "rdma"}, "MOONCAKE_PROTOCOL='nvlink_intra': Mooncake took rdma instead"),
        (
            "rdma",
            "mlx5_1,mlx5_0",
            {"protocol": "rdma", "devices": [{"name": "mlx5_1"}]},
            "MOONCAKE_DEVICE_NAME='mlx5_1,mlx5_0': Mooncake does not use mlx5_0",
        ),
    ],
)
def test_another_transport_or_device(
    mooncake: type[ScriptedMooncake],
    open_engine: Open,
    transport: str,
    device_name: str,
    record: dict[str, Any],
    line: str,
) -> None:
    mooncake.record = record
    engine = open_engine(transport, device_name)
    with pytest.raises(TransferError, match=f"^{re.escape(line)}"):
        engine.register(4096, 10)


def test_what_mooncake_does_not_start_or_register(mooncake: type[ScriptedMooncake], open_engine: Open) -> None:
    mooncake.record = {"protocol": "rdma", "devices": []}
    mooncake.code_of_memory = -202
    with pytest.raises(TransferError, match=r"^Mooncake did not register 10 bytes of KV cache for rdma: code -202$"):
        open_engine("rdma").register(4096, 10)
    mooncake.code_of_start = -1
    with pytest.raises(TransferError, match=r"^Mooncake did not start as p-0 over rdma \(device any\).*code -1$"):
        open_engine("rdma")


def test_a_transport_that_is_not_here_is_refused_before_mooncake_starts(open_engine: Open) -> None:
    with pytest.raises(TransferError, match=r"^MOONCAKE_DEVICE_NAME='mlx5_7': expected some of mlx5_0, mlx5_1"):
        open_engine("rdma", "mlx5_7")


def test_without_etcd_nobody_knows_the_transport(
    mooncake: type[ScriptedMooncake], open_engine: Open, etcd_server: EtcdProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine("tcp")
    monkeypatch.setattr(mooncake, "register_memory", lambda *_: 0)
    with pytest.raises(TransferError, match="does not tell which transport p-0 uses: KeyError"):
        engine.register(4096, 10)
    etcd_server.stop()
    with pytest.raises(TransferError, match=r"does not tell which transport p-0 uses: .*refused"):
        engine.register(4096, 10)


def test_while_etcd_is_away_mooncake_is_not_asked_to_start(
    mooncake: type[ScriptedMooncake], open_engine: Open, etcd_server: EtcdProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold up every thread of Python while it waits for etcd."""
    monkeypatch.setattr(engine, "ETCD_PATIENCE_S", 0.1)
    monkeypatch.setattr(mooncake, "initialize", lambda *_: pytest.fail("asked"))
    etcd_server.stop()
    with pytest.raises(TransferError, match=rf"^etcd at {etcd_server.endpoint}, where Mooncake .*refused"):
        open_engine("tcp")


def test_it_starts_once_etcd_answers(
    mooncake: type[ScriptedMooncake], open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = [ConnectionRefusedError(), RemoteDisconnected("no answer")]

    def answer(url: str, timeout_s: float) -> HTTPResponse:
        if refusals:
            raise refusals.pop()
        return open_directly(url, timeout_s)

    with monkeypatch.context() as patched:
        patched.setattr(engine, "open_directly", answer)
        opened = open_engine("tcp")
    assert refusals == []
    mooncake.record = {"protocol": "tcp"}
    opened.register(4096, 10)


@pytest.mark.parametrize(("silences", "asked"), [(0, 1), (2, 3), (99, 15)])
def test_it_closes_once_etcd_answers_mooncake_or_at_the_end_of_patience(
    mooncake: type[ScriptedMooncake],
    open_engine: Open,
    monkeypatch: pytest.MonkeyPatch,
    silences: int,
    asked: int,
) -> None:
    opened = open_engine("tcp")
    clock = [0.0]
    looked_for: list[str] = []
    ended: list[int] = []

    def look_for(_: ScriptedMooncake, segment: str, *place: int) -> int:
        looked_for.append(segment)
        clock[0] += 1.0 if len(looked_for) <= silences else 0.1
        return 0

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(mooncake, "transfer_submit_write", look_for)
    monkeypatch.setattr(mooncake, "__del__", lambda _: ended.append(len(looked_for)), raising=False)
    opened.close()
    assert ended == [asked]
    assert looked_for == ["p-0-nobody"] * asked


@pytest.mark.parametrize(
    ("transport", "attribute", "problem"),
    [("tcp", "code_of_piece", "2 failed, 0 did not end, 0 not posted"), ("nvlink_intra", "code_of_batch", "code -1")],
)
def test_a_failed_write_names_peer_transport_and_size(
    mooncake: type[ScriptedMooncake], open_engine: Open, transport: str, attribute: str, problem: str
) -> None:
    setattr(mooncake, attribute, -1)
    line = f"writing 10 bytes in 2 pieces to d-0 over {transport}: {problem}"
    engine = open_engine(transport)
    with pytest.raises(TransferError, match=f"^{line}$"):
        engine.write("d-0", PIECES)


def test_pieces_without_an_end_are_told_apart(mooncake: type[ScriptedMooncake], etcd_server: EtcdProcess) -> None:
    engine = MooncakeEngine("p-0", "127.0.0.1", etcd_server.endpoint, "rdma", "", write_timeout=0.05)
    mooncake.code_of_piece = 0
    with pytest.raises(UnendedWriteError, match=r"0 failed, 2 did not end, 0 not posted$"):
        engine.write("d-0", PIECES)


@pytest.mark.parametrize(("transport", "kind"), [("tcp", UnendedWriteError), ("rdma", TransferError)])
def test_what_tcp_gives_up_for_its_silence_may_still_arrive(
    mooncake: type[ScriptedMooncake],
    open_engine: Open,
    monkeypatch: pytest.MonkeyPatch,
    transport: str,
    kind: type[TransferError],
) -> None:
    mooncake.code_of_piece = -1
    engine = open_engine(transport)
    monkeypatch.setattr("connector.mooncake.engine.progress_timeout", lambda _: 0.0)
    with pytest.raises(TransferError, match="failed, 0 did not end") as raised:
        engine.write("d-0", PIECES)
    assert raised.type is kind


def test_memory_that_may_not_be_locked(
    mooncake: type[ScriptedMooncake], open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    mooncake.record, mooncake.code_of_memory = {}, -202
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4096, resource.RLIM_INFINITY))
    with pytest.raises(TransferError, match=r"code -202; this process may lock 4096 bytes .*`ulimit -l` \(memlock\)$"):
        open_engine("rdma").register(4096, 4097)
    for transport, length in (("rdma", 4096), ("tcp", 4097)):
        with pytest.raises(TransferError, match=r"code -202$"):
            open_engine(transport).register(4096, length)


def test_nvlink_takes_a_batch_in_one_call(open_engine: Open) -> None:
    engine = open_engine("nvlink_intra")
    engine.write("d-0", PIECES)
    assert engine._engine.batch == ("d-0", [0, 100], [8, 108], [8, 2])


def test_writes_are_dropped_only_while_the_switch_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    inner, switch = FakeEngine(), tmp_path / "switch"
    engine: TransferEngine = LossyEngine(inner, switch)
    assert "TEST SWITCH" in caplog.text
    assert engine.segment == inner.segment
    engine.write("d", PIECES)
    switch.touch()
    engine.write("d", PIECES)
    assert inner.writes == [("d", PIECES)]
    switch.unlink()
    engine.write("d", PIECES)
    assert len(inner.writes) == 2
