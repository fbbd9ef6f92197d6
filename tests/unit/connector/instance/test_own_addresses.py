"""What the launcher says to addresses that this machine cannot use, before it starts vLLM."""

import json
from pathlib import Path

import pytest

from connector.instance.own_addresses import obstacle
from stack.configuration.environment import load
from stack.instances.settings import LauncherSettings

FILE = {"prefill_url": "127.0.0.1:13003", "decode_url": "127.0.0.1:13503", "metadata_server": "localhost:2379"}


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({}, ""),
        ({"VLLM_HOST_IP": "::1", "ETCD_ENDPOINT": "localhost:2379", "LISTEN_HOST": "::"}, ""),
        (
            {"VLLM_HOST_IP": "192.0.2.7"},
            "VLLM_HOST_IP='192.0.2.7': expected an address to listen on; this machine has no such address",
        ),
        (
            {"LISTEN_HOST": "2001:db8::7"},
            "LISTEN_HOST='2001:db8::7': expected an address to listen on; this machine has no such address",
        ),
        (
            {"ETCD_ENDPOINT": "a..b:2379"},
            "ETCD_ENDPOINT='a..b:2379': expected an IP address or the name of a host, found none of that name "
            "(no host name)",
        ),
    ],
    ids=["IPv4", "IPv6", "another host's", "nobody's to listen on", "no name of an etcd"],
)
def test_variables(environment: pytest.MonkeyPatch, variables: dict[str, str], line: str) -> None:
    for name, value in ({"VLLM_HOST_IP": "127.0.0.1"} | variables).items():
        environment.setenv(name, value)
    assert obstacle(load(LauncherSettings)) == line


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, ""),
        ({"decode_url": "a..b:13503"}, ""),  # of the other role, which may be known elsewhere alone
        (
            {"prefill_url": "a..b:13003"},
            "prefill_url='a..b:13003': expected an IP address or the name of a host, found none of that name "
            "(no host name)",
        ),
        (
            {"prefill_url": "192.0.2.7:13003"},
            "prefill_url='192.0.2.7': expected an address to listen on; this machine has no such address",
        ),
        (
            {"metadata_server": "etcd://a..b:2379"},
            "metadata_server='a..b:2379': expected an IP address or the name of a host, found none of that name "
            "(no host name)",
        ),
    ],
    ids=["as it should be", "the other role", "no name", "another host's", "no name of an etcd"],
)
def test_mooncakes_file(environment: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, str], line: str) -> None:
    file = tmp_path / "mooncake.json"
    file.write_text(json.dumps(FILE | changes))
    environment.delenv("VLLM_HOST_IP")
    environment.setenv("MOONCAKE_CONFIG_PATH", str(file))
    assert obstacle(load(LauncherSettings)) == (f"MOONCAKE_CONFIG_PATH='{file}': {line}" if line else "")
