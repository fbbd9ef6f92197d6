import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stack.instances.mooncake_config import MooncakeConfig, keys_without_effect, load_mooncake_config

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
    "given",
    ["etcd://192.168.0.139:2379", "192.168.0.139:2379", "192.168.0.139", "etcd://192.168.0.139"],
)
def test_the_metadata_server_may_have_etcds_scheme(file: Path, given: str) -> None:
    """kvcache-ai/Mooncake#56 and #476."""
    file.write_bytes(msgspec.json.encode(SEED | {"metadata_server": given}))
    assert load_mooncake_config(file).metadata_server == "192.168.0.139:2379"


def test_addresses_may_be_of_ipv6(file: Path) -> None:
    urls = {
        "prefill_url": "[fd00::7]:13003",
        "decode_url": "[fd00::9]:13003",
        "metadata_server": "etcd://[fd00::9]:2379",
    }
    file.write_bytes(msgspec.json.encode(SEED | urls))
    config = load_mooncake_config(file)
    assert (config.prefill_url, config.metadata_server) == ("[fd00::7]:13003", "[fd00::9]:2379")


ETCDS = "expected etcd's host:port, with or without etcd://: Mooncake's metadata lie in etcd here"


@pytest.mark.parametrize(
    "given",
    [
        "P2PHANDSHAKE",
        "http://127.0.0.1:8080/metadata",
        "HTTP://127.0.0.1:8080/metadata",
        "https://h:8080/metadata",
        "redis://127.0.0.1:6379",
    ],
)
def test_a_metadata_server_that_is_not_etcd_is_refused(file: Path, given: str) -> None:
    file.write_bytes(msgspec.json.encode(SEED | {"metadata_server": given}))
    with pytest.raises(ValueError, match=f"^{re.escape(f'metadata_server={given!r}: {ETCDS}')}$"):
        load_mooncake_config(file)


def test_keys_of_other_programs_change_nothing_and_are_named(file: Path) -> None:
    """Those of Mooncake#476, and of files for Mooncake's store and SGLang."""
    others = {
        "local_hostname": "192.168.0.137",
        "master_server_address": "192.168.0.139:50051",
        "global_segment_size": "4gb",
        "local_buffer_size": 0,
        "kv_connector": "MooncakeConnector",
    }
    file.write_bytes(msgspec.json.encode(SEED | others | {"metadata_backend": "etcd"}))
    assert load_mooncake_config(file).model_dump() == SEED
    assert keys_without_effect(file) == list(others)


def test_a_misspelt_key_is_told_with_the_one_that_is_meant(file: Path) -> None:
    file.write_bytes(msgspec.json.encode(SEED | {"device": "erdma_1", "local_url": "h:1"}))
    assert keys_without_effect(file) == ["device (did you mean device_name?)", "local_url (did you mean prefill_url?)"]


def test_a_byte_order_mark_is_no_part_of_the_file(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + msgspec.json.encode(SEED))
    assert load_mooncake_config(file) == MooncakeConfig(**SEED)


ADDRESS = "expected host:port, e.g. 192.168.0.137:13003"
ENDPOINT = "expected one plain-text endpoint, host:port, e.g. 127.0.0.1:2379 or [::1]:2379"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"prefill_url": "192.168.0.137"}, f"prefill_url='192.168.0.137': {ADDRESS}; the port is missing"),
        ({"decode_url": ":13003"}, f"decode_url=':13003': {ADDRESS}; '' is no host"),
        ({"decode_url": "d:65536"}, f"decode_url='d:65536': {ADDRESS}; '65536' is no port"),
        ({"decode_url": "::1"}, f"decode_url='::1': {ADDRESS}; an IPv6 address stands in brackets, as [::1]:13003"),
        ({"metadata_server": "m:0"}, f"metadata_server='m:0': {ENDPOINT}; '0' is no port"),
        (
            {"metadata_server": "a:1;b:1"},
            f"metadata_server='a:1;b:1': {ENDPOINT}; found 2, of which `etcd gateway` makes one",
        ),
        (
            {"metadata_server": "etcd://a:1,b:1"},
            f"metadata_server='etcd://a:1,b:1': {ENDPOINT}; found 2, of which `etcd gateway` makes one",
        ),
        (
            {"metadata_server": "etcd://root:hunter2@m:1"},
            f"metadata_server='etcd://***@m:1': {ENDPOINT}; a user or a password has no place in it: "
            "etcd is spoken to without",
        ),
        ({"decode_url": "u:hunter2@d:1"}, f"decode_url='***@d:1': {ADDRESS}; a user or a password has no place in it"),
        ({"metadata_backend": "redis"}, "metadata_backend='redis': Input should be 'etcd'"),
        ({"protocol": "roce"}, "protocol='roce': Input should be 'auto', 'tcp', 'rdma' or 'nvlink_intra'"),
        ({"prefill_url": 13003}, "prefill_url=13003: Input should be a valid string"),
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
