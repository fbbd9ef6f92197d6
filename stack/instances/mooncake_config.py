"""The seed document's `mooncake.json`: one file for both nodes, with five keys.

Files of this name for Mooncake's store, SGLang and older vLLM have more keys, which have no effect here. What
`metadata_server` and `metadata_backend` say must lead to etcd.
"""

import difflib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from stack import etcd
from stack.network import addresses

# auto: the best of the others that both ends of a transfer have.
Protocol = Literal["auto", "tcp", "rdma", "nvlink_intra"]


class MooncakeConfig(BaseModel):
    """`prefill_url` and `decode_url` are host:port of each role's control channel, `metadata_server` is etcd's."""

    model_config = ConfigDict(frozen=True)

    prefill_url: str
    decode_url: str
    metadata_server: str
    protocol: Protocol = "tcp"
    device_name: str = Field(default="")
    # Older files name it beside the server, without a scheme.
    metadata_backend: Literal["etcd"] | None = Field(default=None, exclude=True)

    @field_validator("prefill_url", "decode_url")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        try:
            addresses.split(value)
        except ValueError as error:
            raise ValueError(f"expected host:port, e.g. 192.168.0.137:13003; {error}") from error
        return value

    @field_validator("metadata_server")
    @classmethod
    def _etcd(cls, value: str) -> str:
        """As host:port. Of a scheme that Mooncake knows only etcd:// is etcd's; http:// is its own metadata service."""
        if value.lower() == "p2phandshake" or value.lower().startswith(("http://", "https://", "redis://")):
            raise ValueError("expected etcd's host:port, with or without etcd://: Mooncake's metadata lie in etcd here")
        return etcd.authority(value)


def load_mooncake_config(path: Path) -> MooncakeConfig:
    """Raises: ValueError: naming the key that cannot work, or what is wrong with the file."""
    try:
        return MooncakeConfig.model_validate(_content(path))
    except ValidationError as error:
        raise ValueError("; ".join(_problem(dict(problem)) for problem in error.errors())) from error


def keys_without_effect(path: Path) -> list[str]:
    """Those that this stack does not know, each with the one that may be meant. Raises: ValueError: no JSON file."""
    content = _content(path)
    known = list(MooncakeConfig.model_fields)
    return [
        f"{key} (did you mean {near[0]}?)" if (near := difflib.get_close_matches(key, known, n=1)) else key
        for key in (content if isinstance(content, dict) else ())
        if key not in known
    ]


def _content(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"is not JSON: {error}") from error


def _problem(problem: dict[str, Any]) -> str:
    if not problem["loc"]:
        return "is not a JSON object"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":  # its input is the whole file
        return f"{problem['loc'][0]}: {message}"
    value = problem["input"]
    shown = addresses.without_password(value) if isinstance(value, str) else value
    return f"{problem['loc'][0]}={shown!r}: {message}"
