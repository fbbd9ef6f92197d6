"""The API keys of clients: who may come in, and under which name it is counted.

A key is compared by its digest with every configured one, so that the time this takes says nothing about how much of
it was right. Keys are nowhere shown: not in `repr`, not in errors, not in the lines that report a bad configuration.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

from pydantic import SecretStr

from proxy.errors import Unauthorized
from stack.configuration.environment import ConfigError

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_KEY = re.compile(r"[!-~]+")  # visible ASCII: what every client can put into a header
_FORM = "expected name:key, the name of 1 to 64 of A-Z a-z 0-9 _ . -, the key of visible ASCII"


class ClientKeys:
    """Raises: ConfigError: an entry that cannot work; `entries` are (where it stands, its text)."""

    def __init__(self, entries: Iterable[tuple[str, str]]) -> None:
        self._names: dict[bytes, str] = {}
        places: dict[str | bytes, str] = {}
        for place, entry in entries:
            name, _, key = entry.partition(":")
            # Neither part is shown: whoever wrote them in the wrong order would find the key in the log.
            if not _NAME.fullmatch(name) or not _KEY.fullmatch(key):
                raise ConfigError([f"{place}: {_FORM}"])
            digest = _digest(key)
            for what, value in (("name", name), ("key", digest)):
                if (other := places.setdefault(value, place)) != place:
                    raise ConfigError([f"{place}: has the same {what} as {other}"])
            self._names[digest] = name

    def name_of(self, authorization: str | None, x_api_key: str | None) -> str | None:
        """The name of the key in these two headers, or None when the proxy is open to everyone.

        Raises: Unauthorized.
        """
        if not self._names:
            return None
        scheme, _, bearer = (authorization or "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else x_api_key
        if not given:
            raise Unauthorized("No API key was sent: expected the header 'Authorization: Bearer <key>'.")
        digest, found = _digest(given), None
        for known, name in self._names.items():
            if hmac.compare_digest(known, digest):
                found = name
        if found is None:
            raise Unauthorized("The API key is not known.")
        return found


def read_client_keys(inline: SecretStr | None, file: Path | None) -> ClientKeys:
    """The `name:key` of PROXY_API_KEYS, comma-separated, and of PROXY_API_KEYS_FILE, one a line, `#` for comments.

    Raises: ConfigError: one line that names the entry.
    """
    listed = inline.get_secret_value().split(",") if inline else []
    entries = [(f"PROXY_API_KEYS, entry {number}", entry) for number, entry in enumerate(listed, 1)]
    if file is not None:
        entries += [(f"PROXY_API_KEYS_FILE={str(file)!r}, line {number}", line) for number, line in _lines(file)]
        if not entries:  # an empty secret must not open the proxy to everyone
            raise ConfigError([f"PROXY_API_KEYS_FILE={str(file)!r}: holds no key; {_FORM}, one a line"])
    return ClientKeys((place, entry.strip()) for place, entry in entries)


def _lines(file: Path) -> list[tuple[int, str]]:
    try:
        lines = [line.strip() for line in file.read_text().splitlines()]
    except OSError as error:
        raise ConfigError([f"PROXY_API_KEYS_FILE={str(file)!r}: {error.strerror}"]) from error
    except UnicodeDecodeError:  # which holds the text
        raise ConfigError([f"PROXY_API_KEYS_FILE={str(file)!r}: expected text in UTF-8"]) from None
    return [(number, line) for number, line in enumerate(lines, 1) if line and not line.startswith("#")]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
