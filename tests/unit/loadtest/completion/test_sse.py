import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.completion.sse import Event, EventParser


def message(data: str) -> Event:
    return Event("message", data)


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        pytest.param(b"data: a\n\n", [message("a")], id="one event"),
        pytest.param(b"data: a\n\ndata: b\n\n", [message("a"), message("b")], id="two events"),
        pytest.param(b"data: a\r\n\r\ndata: b\r\n\r\n", [message("a"), message("b")], id="CRLF"),
        pytest.param(b"data: a\r\rdata: b\r\r", [message("a"), message("b")], id="CR alone"),
        pytest.param(b"data: a\r\n\ndata: b\n\r\n", [message("a"), message("b")], id="mixed line ends"),
        pytest.param(b"data:a\n\n", [message("a")], id="no space after the colon"),
        pytest.param(b"data:  a\n\n", [message(" a")], id="only one space belongs to the field"),
        pytest.param(b"data: a\ndata: b\n\n", [message("a\nb")], id="data over two lines"),
        pytest.param(b'data: {"a": "b: c"}\n\n', [message('{"a": "b: c"}')], id="colons in the data"),
        pytest.param(b"event: error\ndata: a\n\n", [Event("error", "a")], id="named event"),
        pytest.param(b"event: x\ndata: a\n\ndata: b\n\n", [Event("x", "a"), message("b")], id="a name counts once"),
        pytest.param(b": keep-alive\n\ndata: a\n\n", [message("a")], id="comment"),
        pytest.param(b"id: 7\nretry: 10\ndata: a\n\n", [message("a")], id="other fields"),
        pytest.param(b"\n\n\ndata: a\n\n\n", [message("a")], id="blank lines"),
        pytest.param(b"data\n\n", [message("")], id="field without a value"),
        pytest.param(b"event: ping\n\ndata: a\n\n", [message("a")], id="event without data"),
        pytest.param(b"\xef\xbb\xbfdata: a\n\n", [message("a")], id="byte order mark"),
        pytest.param("data: 日本 🏙\n\n".encode(), [message("日本 🏙")], id="UTF-8"),
        pytest.param(b"data: \xff\n\n", [message("\ufffd")], id="not UTF-8"),
        pytest.param(b"data: a\n\ndata: half", [message("a")], id="broken off in a line"),
        pytest.param(b"data: a\n\ndata: half\n", [message("a")], id="broken off before the blank line"),
        pytest.param(b"", [], id="nothing"),
    ],
)
class TestEvents:
    def test_whole(self, stream: bytes, events: list[Event]) -> None:
        assert EventParser().feed(stream) == events

    def test_byte_by_byte(self, stream: bytes, events: list[Event]) -> None:
        parser = EventParser()
        assert [event for byte in stream for event in parser.feed(bytes([byte]))] == events


@given(st.data())
def test_splits_do_not_matter(data: st.DataObject) -> None:
    stream = data.draw(st.lists(st.sampled_from([b"data: a", b"data", b":", b"\r", b"\n", b"\r\n", b"event: e"])))
    joined = b"".join(stream)
    cut = data.draw(st.integers(0, len(joined)))
    parser = EventParser()
    assert parser.feed(joined[:cut]) + parser.feed(joined[cut:]) == EventParser().feed(joined)


def test_event_is_returned_with_the_bytes_that_complete_it() -> None:
    parser = EventParser()
    assert parser.feed(b"data: a\n") == []
    assert parser.feed(b"\ndata: b") == [message("a")]
    assert parser.feed(b"\n\n") == [message("b")]
