"""Stamps are the kernel's: what is read late has the time at which it came. Only the order of moments decides."""

import select
import socket
import time

from loadtest.stamped_socket import StampedConnection

LIMIT_S = 10


def test_what_is_read_late_came_before() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = StampedConnection("127.0.0.1", server.getsockname()[1], timeout_s=LIMIT_S)
        client = connection.get_socket()
        accepted, _ = server.accept()
        seen_at = []
        with accepted:
            for byte in (b"a", b"b"):
                accepted.sendall(byte)
                assert select.select([client.fileno()], [], [], LIMIT_S)[0]
                readable_at = time.perf_counter()
                assert client.recv(10) == byte
                assert connection.arrived_at() <= readable_at
                seen_at.append(connection.arrived_at())
        assert seen_at == sorted(seen_at)
        assert seen_at[0] > readable_at - LIMIT_S
        connection.release_socket(client)
        connection.close()
