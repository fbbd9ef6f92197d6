"""A link to a server that can be cut without a word: what is sent stays under way, and connections are neither refused
nor closed, as when a cable is pulled."""

import socket
import threading
from contextlib import suppress
from typing import Self


class CuttableLink:
    """Listens at `endpoint` on a free port of the loopback and passes everything on to the server."""

    def __init__(self, server: str) -> None:
        host, _, port = server.rpartition(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._whole = threading.Event()
        self._whole.set()
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        """What was under way arrives."""
        self._whole.set()

    def replace(self) -> None:
        """New connections work; those of before the cut stay deaf for ever, as when the server's host is a new one."""
        self._whole = threading.Event()
        self._whole.set()

    def close(self) -> None:
        for each in self._sockets:
            with suppress(OSError):  # not connected any more
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(source, sink, self._whole), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, whole: threading.Event) -> None:
        with suppress(OSError):  # closed at either end
            while data := source.recv(65536):
                whole.wait()
                sink.sendall(data)
        whole.wait()
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
