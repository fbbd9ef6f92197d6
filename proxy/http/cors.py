"""Which web pages may read the API's answers: the headers that browsers ask for, with Starlette's values, as vLLM gives
them where it is told to (`--allowed-origins`).

No cookies are involved, as with vLLM: a page sends its key in a header, so `*` lets in who has one. Pages may read all
headers of an answer, the `X-PD-*` ones too.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

ANY = "*"
NONE = "none"

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s,]+")  # as browsers write it: no path, not even a slash
_FORM = f"expected {ANY}, {NONE}, or origins like https://chat.example.org, separated by commas"
# Starlette's, for allow_methods=["*"] and its default max_age.
_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY")
_MAX_AGE_S = "600"
_ASKS = "access-control-request"
_PREFLIGHT_VARY = (
    "Origin, Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network"
)
_VARY = (b"vary", b"Origin")
_EXPOSE = (b"access-control-expose-headers", b"*")
_FOR_ALL = [(b"access-control-allow-origin", b"*"), _EXPOSE]


class Preflight(NamedTuple):
    """The answer to a browser that asks before it sends; `Cors.headers` are beside these."""

    status: int
    headers: dict[str, str]
    body: bytes


class Cors:
    """Raises: ValueError: what is no origin in `origins`, which is PROXY_CORS_ORIGINS."""

    def __init__(self, origins: str) -> None:
        self._all = origins == ANY
        self._origins: frozenset[str] = frozenset()
        if origins not in (ANY, NONE):
            self._origins = frozenset(origin.strip().lower() for origin in origins.split(","))
            if wrong := sorted(origin for origin in self._origins if not _ORIGIN.fullmatch(origin)):
                raise ValueError(f"{wrong[0]!r}: {_FORM}")

    @property
    def always(self) -> list[tuple[str, str]]:
        """Headers of every answer: a cache must not give the one for one page to another."""
        return [("Vary", "Origin")] if self._origins else []

    def headers(self, origin: bytes | None) -> list[tuple[bytes, bytes]]:
        """For the answer to a request with this `Origin`; None where it has none, or its head was not read so far."""
        if self._all:
            return _FOR_ALL if origin is None else [*_FOR_ALL, _VARY]
        if origin is None or not self._allows(origin.decode("latin-1")):
            return []
        return [(b"access-control-allow-origin", origin), _EXPOSE]

    def preflight(self, headers: Mapping[str, str]) -> Preflight | None:
        """For an OPTIONS request with these headers, by their names in small letters; None where it is not one."""
        origin, method = headers.get("origin"), headers.get(f"{_ASKS}-method")
        if origin is None or method is None:
            return None
        refused = [
            what
            for what, wrong in (
                ("origin", not self._allows(origin)),
                ("method", method not in _METHODS),
                ("private-network", f"{_ASKS}-private-network" in headers),
            )
            if wrong
        ]
        shown = {
            "Vary": _PREFLIGHT_VARY,
            "Access-Control-Allow-Methods": ", ".join(_METHODS),
            "Access-Control-Max-Age": _MAX_AGE_S,
        }
        if (wanted := headers.get(f"{_ASKS}-headers")) is not None:
            shown["Access-Control-Allow-Headers"] = wanted
        if refused:
            return Preflight(400, shown, f"Disallowed CORS {', '.join(refused)}".encode())
        return Preflight(200, shown, b"OK")

    def _allows(self, origin: str) -> bool:
        return self._all or origin in self._origins
