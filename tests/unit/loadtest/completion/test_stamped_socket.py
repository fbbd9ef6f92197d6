"""Stamps are the kernel's: what is read late has the time at which it came. Only the order of moments decides."""

import select
import socket
import time

from loadtest.completion.stamped_socket import StampedConnection

LIMIT_S = 10


def test_what_is_read_late_came_before() -> None:
    """Not from the first byte on: the kernel begins to stamp shortly after the first socket asks for it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = StampedConnection("127.0.0.1", server.getsockname()[1], timeout_s=LIMIT_S)
        client = connection.get_socket()
        accepted, _ = server.accept()
        began_at = readable_at = time.perf_counter()
        seen_at = [began_at]
        with accepted:
            while len(seen_at) == 1 or seen_at[-1] > readable_at:
                assert time.perf_counter() < began_at + LIMIT_S, "nothing was stamped"
                accepted.sendall(b"a")
                assert select.select([client.fileno()], [], [], LIMIT_S)[0]
                readable_at = time.perf_counter()
                assert client.recv(10) == b"a"
                seen_at.append(connection.arrived_at())
        assert seen_at[1:] == sorted(seen_at[1:])
        connection.release_socket(client)
        connection.close()
