"""etcd through its HTTP gateway, for tests that need no more of it than to read and to write a key."""

import base64

from tests.real_stack import post


def put(url: str, key: str, value: str) -> None:
    post(url + "/v3/kv/put", {"key": _encoded(key), "value": _encoded(value)})


def under(url: str, prefix: str) -> dict[str, str]:
    """Keys and values."""
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    items = post(url + "/v3/kv/range", {"key": _encoded(prefix), "range_end": _encoded(end)}).get("kvs", [])
    return {_decoded(item["key"]): _decoded(item["value"]) for item in items}


def delete(url: str, key: str) -> None:
    post(url + "/v3/kv/deleterange", {"key": _encoded(key)})


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()
