"""`make ratio`: what it prints of what the proxy says, and how it ends."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from stack import ratio
from tests.unit.stack.waiting import free_port


def verdict(says: str, producers: int = 0, consumers: int = 0, **more: Any) -> dict[str, Any]:
    sides = {
        name: {"number": 2, "use": use, "wanted": 2 + change, "change": change}
        for name, use, change in (("producers", 1.5, producers), ("consumers", 0.1, consumers))
    }
    known = {"tokens_waiting": 12_000, "wait_ms": 1500, "cache_usage": 0.1, "itl_ms": 20}
    return {"model": "m", "minutes": 2, "says": says, **sides, **known, **more}


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Answers with the verdicts that a test puts in, to who has the key."""
    told: dict[str, Any] = {"tpot_ms": 200, "verdicts": []}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers["Authorization"] == "Bearer k1"
            self.send_response(200 if known and self.path == ratio.PATH else 401)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("PROXY_PORT", str(server.server_port))
        monkeypatch.setenv("OPENAI_API_KEY", "k1")
        yield told
        server.shutdown()
        thread.join()


def test_the_whole_line(proxy: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    proxy["verdicts"] = [verdict("wrong", 3, -1)]
    assert ratio.main() == 1
    assert capsys.readouterr().out == (
        "m: the ratio is wrong: 3 more producers, 1 fewer consumer (2 producers used 150%, 12,000 tokens waiting "
        "(1.5 s); 2 consumers used 10%, KV cache 10%, ITL 20 of 200 ms)\n"
    )


def test_one_of_each(proxy: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    told = verdict("right")
    for side in ("producers", "consumers"):
        told[side]["number"] = 1
    proxy["verdicts"] = [told]
    assert ratio.main() == 0
    assert "(1 producer used 150%" in (line := capsys.readouterr().out)
    assert "; 1 consumer used 10%" in line


@pytest.mark.parametrize(
    ("told", "status", "words"),
    [
        (verdict("few", 1, 1), 1, "too few of both: 1 more producer, 1 more consumer"),
        (verdict("many", 0, -1), 0, "nothing is short, and fewer would do: 1 fewer consumer"),
        (verdict("right"), 0, "the ratio is right"),
        (verdict("little", wait_ms=None), 0, "too little load in the last 2 minutes to say"),
        (verdict("unknown", cache_usage=None, itl_ms=None), 0, "KV cache not known, ITL – of 200 ms"),
    ],
)
def test_each_verdict(
    proxy: dict[str, Any], told: dict[str, Any], status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy["verdicts"] = [told]
    assert ratio.main() == status
    assert words in capsys.readouterr().out


def test_no_pairs(proxy: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert ratio.main() == 0
    assert capsys.readouterr().out == "no model has both producers and consumers\n"


@pytest.mark.usefixtures("proxy")
def test_a_key_that_is_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k2")
    assert ratio.main() == 2
    assert "answered 401; set OPENAI_API_KEY to a key of PROXY_API_KEYS" in capsys.readouterr().err


def test_nobody_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PROXY_PORT", str(free_port()))
    assert ratio.main() == 2
    assert "the proxy does not say: http://127.0.0.1:" in capsys.readouterr().err
