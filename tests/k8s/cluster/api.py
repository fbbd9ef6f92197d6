"""The API server as its clients in the tests' own process see it: JSON over HTTPS with a token."""

import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_S = 10.0


@dataclass(frozen=True)
class Api:
    url: str
    token: str
    certificate: Path  # the server's own, which it makes at its first start

    def get(self, path: str) -> dict[str, Any]:
        """Raises: OSError: not reached, or an answer that is an error (urllib.error.HTTPError)."""
        found: dict[str, Any] = json.loads(self._call("GET", path))
        return found

    def items(self, path: str) -> list[dict[str, Any]]:
        """The objects of a list."""
        found: list[dict[str, Any]] = self.get(path)["items"]
        return found

    def ready(self) -> bool:
        try:
            return self._call("GET", "/readyz") == b"ok"
        except (OSError, urllib.error.HTTPError):
            return False

    def _call(self, method: str, path: str) -> bytes:
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/json"}
        request = urllib.request.Request(self.url + path, headers=headers, method=method)
        trust = ssl.create_default_context(cafile=str(self.certificate))
        direct = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
        )
        with direct.open(request, timeout=LIMIT_S) as answer:
            return bytes(answer.read())
