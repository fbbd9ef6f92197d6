"""The seed document's `mooncake.json`: one file for both nodes, with five keys."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

# auto: the best of the others that both ends of a transfer have.
Protocol = Literal["auto", "tcp", "rdma", "nvlink_intra"]


class MooncakeConfig(BaseModel):
    """`prefill_url` and `decode_url` are host:port of each role's control channel, `metadata_server` is etcd's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefill_url: str
    decode_url: str
    metadata_server: str
    protocol: Protocol = "tcp"
    device_name: str = Field(default="")

    @field_validator("prefill_url", "decode_url", "metadata_server")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError("expected host:port, e.g. 192.168.0.137:13003")
        return value


def load_mooncake_config(path: Path) -> MooncakeConfig:
    """Raises: ValueError: naming the file and the key that cannot work."""
    try:
        return MooncakeConfig.model_validate(json.loads(path.read_text()))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"is not JSON: {error}") from error
    except ValidationError as error:
        raise ValueError("; ".join(_problem(dict(problem)) for problem in error.errors())) from error


def _problem(problem: dict[str, Any]) -> str:
    if not problem["loc"]:
        return "is not a JSON object"
    message = problem["msg"].removeprefix("Value error, ")
    value = "" if problem["type"] == "missing" else f"={problem['input']!r}"  # of a missing key: the whole file
    return f"{problem['loc'][0]}{value}: {message}"
