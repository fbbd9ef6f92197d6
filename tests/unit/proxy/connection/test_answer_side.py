"""What is written when: an answer's head waits for the first piece of its body, and for nothing else."""

import asyncio

from proxy.connection.answer_side import AnswerSide


class RecordingTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.writes.append(bytes(data))

    def writelines(self, pieces: object) -> None:
        assert isinstance(pieces, tuple)
        self.write(b"".join(pieces))

    def close(self) -> None:
        self.closed = True


def started(*writes: bytes) -> tuple[RecordingTransport, AnswerSide]:
    transport = RecordingTransport()
    side = AnswerSide(transport, transport.close)
    for data in writes:
        side.write(data)
    return transport, side


def test_the_head_goes_out_with_the_first_piece() -> None:
    transport, _ = started(b"HTTP/1.1 200 OK\r\n\r\n", b"one", b"two")
    assert transport.writes == [b"HTTP/1.1 200 OK\r\n\r\none", b"two"]


def test_each_answer_of_a_connection_begins_anew() -> None:
    transport, side = started(b"HTTP/1.1 200 OK\r\n\r\n", b"one")
    side.completed()
    side.write(b"HTTP/1.1 404 Not Found\r\n\r\n")
    assert len(transport.writes) == 1
    side.write(b"two")
    assert transport.writes[1:] == [b"HTTP/1.1 404 Not Found\r\n\r\ntwo"]


def test_an_interim_answer_does_not_wait() -> None:
    transport, side = started(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n")
    assert transport.writes == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    side.write(b"one")
    assert transport.writes[1:] == [b"HTTP/1.1 200 OK\r\n\r\none"]


def test_a_head_without_a_body_is_written_at_the_end() -> None:
    transport, side = started(b"HTTP/1.1 200 OK\r\n\r\n")
    side.completed()
    assert transport.writes == [b"HTTP/1.1 200 OK\r\n\r\n"]
    transport, side = started(b"HTTP/1.1 200 OK\r\n\r\n")
    side.close()
    assert (transport.writes, transport.closed) == ([b"HTTP/1.1 200 OK\r\n\r\n"], True)


def test_what_was_sent_ahead_is_not_sent_again() -> None:
    transport, side = started()
    for _ in range(20):  # more than is the same for every answer
        side.send_ahead()
    side.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    side.send_ahead()
    side.write(b"HTTP/1.1 200 OK\r\n\r\n")
    side.send_ahead()  # its head is there
    side.write(b"one")
    side.completed()
    side.write(b"HTTP/1.1 404 Not Found\r\n\r\n")
    side.completed()
    said = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\noneHTTP/1.1 404 Not Found\r\n\r\n"
    assert b"".join(transport.writes) == said
