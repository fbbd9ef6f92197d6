import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connector.mooncake_config import MooncakeConfig, load_mooncake_config

# The seed document's own example.
SEED: dict[str, Any] = {
    "prefill_url": "192.168.0.137:13003",
    "decode_url": "192.168.0.139:13003",
    "metadata_server": "192.168.0.139:2379",
    "protocol": "rdma",
    "device_name": "erdma_0",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mooncake.json"


def test_the_seed_documents_file(file: Path) -> None:
    file.write_bytes(msgspec.json.encode(SEED))
    assert load_mooncake_config(file) == MooncakeConfig(**SEED)


def test_protocol_and_device_may_be_left_out(file: Path) -> None:
    file.write_bytes(msgspec.json.encode({key: SEED[key] for key in list(SEED)[:3]}))
    config = load_mooncake_config(file)
    assert (config.protocol, config.device_name) == ("tcp", "")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"prefill_url": "192.168.0.137"}, "prefill_url='192.168.0.137': expected host:port, e.g. 192.168.0.137:13003"),
        ({"decode_url": ":13003"}, "decode_url=':13003': expected host:port, e.g. 192.168.0.137:13003"),
        ({"decode_url": "d:65536"}, "decode_url='d:65536': expected host:port, e.g. 192.168.0.137:13003"),
        ({"metadata_server": "m:0"}, "metadata_server='m:0': expected host:port, e.g. 192.168.0.137:13003"),
        ({"protocol": "roce"}, "protocol='roce': Input should be 'auto', 'tcp', 'rdma' or 'nvlink_intra'"),
        ({"prefill_url": 13003}, "prefill_url=13003: Input should be a valid string"),
        ({"device": "erdma_0"}, "device='erdma_0': Extra inputs are not permitted"),
    ],
)
def test_a_wrong_key_is_named_with_its_value(file: Path, changes: dict[str, Any], text: str) -> None:
    file.write_bytes(msgspec.json.encode(SEED | changes))
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        load_mooncake_config(file)


def test_missing_keys_are_named(file: Path) -> None:
    file.write_text('{"protocol": "tcp"}')
    text = "prefill_url: Field required; decode_url: Field required; metadata_server: Field required"
    with pytest.raises(ValueError, match=f"^{text}$"):
        load_mooncake_config(file)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"{", "is not JSON: "),
        (b"", "is not JSON: "),
        (b"\xff\xfe", "is not JSON: "),
        (b"[]", "is not a JSON object"),
        (b'"tcp"', "is not a JSON object"),
    ],
)
def test_what_is_no_object_is_refused(file: Path, content: bytes, text: str) -> None:
    file.write_bytes(content)
    with pytest.raises(ValueError, match=text):
        load_mooncake_config(file)


def test_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read: No such file or directory"):
        load_mooncake_config(file)
