"""Which endpoints of etcd are understood, and what is said to the others."""

import re
from pathlib import Path

import pytest

from stack import etcd
from tests.etcd_process import EtcdProcess


@pytest.mark.parametrize(
    ("endpoint", "authority"),
    [
        ("10.0.0.1", "10.0.0.1:2379"),
        ("etcd:4000", "etcd:4000"),
        ("http://etcd:4000/", "etcd:4000"),
        ("etcd://10.0.0.1:2379", "10.0.0.1:2379"),
        ("etcd://[::1]", "[::1]:2379"),
        ("HTTP://etcd:4000", "etcd:4000"),
        ("[::1]:4000", "[::1]:4000"),
        ("http://[2001:db8::7]:2379", "[2001:db8::7]:2379"),
    ],
)
def test_one_plain_text_endpoint_is_understood(endpoint: str, authority: str) -> None:
    assert etcd.authority(endpoint) == authority


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("127.0.0.1:2379,127.0.0.1:22379", "found 2, of which `etcd gateway` makes one"),
        ("a:2379;b:2379;c:2379", "found 3, of which `etcd gateway` makes one"),
        ("http://a:2379,http://b:2379", "found 2, of which `etcd gateway` makes one"),
        ("etcd://a:2379;b:2379", "found 2, of which `etcd gateway` makes one"),
        ("Https://127.0.0.1:2379", "etcd is not spoken to over TLS here"),
        ("https://127.0.0.1:2379", "etcd is not spoken to over TLS here"),
        ("redis://127.0.0.1:6379", "found redis://"),
        ("http://127.0.0.1:8080/metadata", "'8080/metadata' is no port"),
        ("http://", "'' is no host"),
        ("http://root:hunter2@a:2379", "a user or a password has no place in it: etcd is spoken to without"),
        ("root:hunter2@a", "a user or a password has no place in it: etcd is spoken to without"),
        ("https://root:hun://ter2@a:1,b:1", "a user or a password has no place in it: etcd is spoken to without"),
        ("::1", "an IPv6 address stands in brackets, as [::1]:2379"),
    ],
)
def test_anything_else_is_refused_with_what_would_be_right(endpoint: str, reason: str) -> None:
    expected = "expected one plain-text endpoint, host:port, e.g. 127.0.0.1:2379 or [::1]:2379"
    with pytest.raises(ValueError, match=f"^{re.escape(f'{expected}; {reason}')}$"):
        etcd.authority(endpoint)


def test_it_is_reached_over_ipv6(tmp_path: Path) -> None:
    server = EtcdProcess(tmp_path, "::1")
    server.start()
    try:
        for form in ("{}", "http://{}/", "etcd://{}"):
            with etcd.connect(form.format(server.endpoint)) as client:
                client.put("key", form)
                assert client.get("key")[0] == form.encode()
    finally:
        server.stop()
