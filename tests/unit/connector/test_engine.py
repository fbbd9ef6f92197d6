"""The negative control's engine. Mooncake's own is tested with the real one, in tests/integration."""

from pathlib import Path

import pytest

from connector.engine import LossyEngine, TransferEngine
from connector.layout import Piece
from tests.unit.connector.fakes import FakeEngine

PIECES = [Piece(0, 8, 8)]


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
