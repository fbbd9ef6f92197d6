"""The connections of one process to the server under load: as many as there are open requests, reused while fresh."""

import time

from loadtest.completion.client import CompletionClient
from loadtest.sending.exchange import Exchange
from loadtest.settings import LoadTestSettings

# Servers close a connection that has been idle for some time (uvicorn under vLLM: 5 s). A request that meets this very
# moment fails although nothing is wrong, so no connection is reused that has been idle for nearly as long.
_FRESH_S = 2.0


class Connections:
    def __init__(self, settings: LoadTestSettings) -> None:
        self._settings = settings
        self._idle: list[tuple[float, CompletionClient]] = []  # the one used last is at the end

    def take(self) -> CompletionClient:
        """One that no other request uses."""
        now = time.monotonic()
        while self._idle:
            since, client = self._idle.pop()
            if now - since < _FRESH_S:
                return client
            client.close()
        return self._new(self._settings.target)

    def of_tokenizer(self) -> CompletionClient:
        """One to the server that counts tokens."""
        return self._new(self._settings.loadtest_tokenizer or self._settings.target)

    def give_back(self, client: CompletionClient, last: Exchange) -> None:
        """Args: last: what the client has just made; a connection with half an answer on it is closed."""
        if last.record.outcome == "completed":
            self._idle.append((time.monotonic(), client))
        else:
            client.close()

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()

    def _new(self, base_url: str) -> CompletionClient:
        key = self._settings.openai_api_key
        return CompletionClient(
            base_url,
            timeout_s=self._settings.loadtest_timeout_s,
            api_key=key.get_secret_value() if key else None,
        )
