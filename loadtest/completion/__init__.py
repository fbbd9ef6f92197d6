"""One completion over HTTP: the client, its streamed events and when each of them arrived."""
