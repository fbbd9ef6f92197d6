"""What a long wait shows in a log and on a terminal."""

import sys

import pytest

from stack.running.progress import Progress


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(limit_s=60, clock=iter([0.0, 5.0, 16.0]).__next__)

    progress.waiting(["decode-0"])
    assert capsys.readouterr().out == ""
    progress.waiting(["decode-0", "prefill-0"])

    assert capsys.readouterr().out == "   16 s  waiting for decode-0, prefill-0\n"


def test_a_terminal_gets_one_line_that_is_rewritten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    progress = Progress(limit_s=60)

    progress.waiting(["decode-0"])
    progress.done("decode-0")

    out = capsys.readouterr().out
    assert out.startswith("\r\033[K")
    assert out.endswith("  decode-0: ready\n")
    assert out.count("\n") == 1


def test_the_limit() -> None:
    progress = Progress(limit_s=10, clock=iter([0.0, 9.0, 11.0]).__next__)

    assert [progress.is_over(), progress.is_over()] == [False, True]
