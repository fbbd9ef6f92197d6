"""Hosts and ports as people write them, and as programs take them."""

import ipaddress
import re
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.network import addresses

HOSTS = st.one_of(
    st.ip_addresses().map(str), st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{2,3})?", fullmatch=True)
)


@given(HOSTS, st.integers(1, 65535))
def test_what_was_joined_can_be_taken_apart(host: str, port: int) -> None:
    assert addresses.split(addresses.join(host, port)) == (host, port)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("2001:db8::7", "http://[2001:db8::7]:8000"),
        ("etcd", "http://etcd:8000"),
    ],
)
def test_a_url_has_brackets_around_an_ipv6_address(host: str, url: str) -> None:
    assert addresses.http_url(host, 8000) == url


@pytest.mark.parametrize(
    ("text", "parts"),
    [("h", ("h", 7)), ("h:1", ("h", 1)), ("10.0.0.1", ("10.0.0.1", 7)), ("[::1]", ("::1", 7)), ("[::1]:1", ("::1", 1))],
)
def test_the_port_may_be_the_usual_one(text: str, parts: tuple[str, int]) -> None:
    assert addresses.split(text, 7) == parts


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("http://me:hunter2@host:1/path", "http://***@host:1/path"),
        ("me:hunter2@host", "***@host"),
        ("http://a:hun ter2@h:1,http://b:hunter2@i:2", "http://***@i:2"),
        ("http://me:hun'ter@2@host", "http://***@host"),
        ("--api-key hunter2 hunter3 --seed 1 --hf-token=hunter4", "--api-key *** --seed 1 --hf-token=***"),
        ("http://host:1/path", "http://host:1/path"),
        ("--tokenizer-mode auto", "--tokenizer-mode auto"),
    ],
)
def test_what_is_shown_of_a_value_has_no_password(value: str, shown: str) -> None:
    assert addresses.without_password(value) == shown


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("404 for url: http://me:hunter2@host/path (gone)", "404 for url: http://***@host/path (gone)"),
        ("url='etcd://me:hunter2@host:1': no; 'me:hunter2@i'", "url='etcd://***@host:1': no; '***@i'"),
        ('found "http://me:hun\'ter2@host"', 'found "http://***@host"'),
        ("expected host:port, e.g. http://[::1]:2379", "expected host:port, e.g. http://[::1]:2379"),
    ],
)
def test_what_is_shown_of_a_sentence_has_no_password(sentence: str, shown: str) -> None:
    assert addresses.without_passwords(sentence) == shown


def test_a_base_url_has_no_password() -> None:
    assert addresses.base_url("https://host/v1", "").host == "host"
    for url in ("http://me:hunter2@host", "http://me@host", "http://:hunter2@host"):
        with pytest.raises(ValueError, match=r"^expected a URL without a user and a password: it goes there$"):
            addresses.base_url(url, "it goes there")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("me:hunter2@h:1", "a user or a password has no place in it"),
        ("h", "the port is missing"),
        ("[::1]", "the port is missing"),
        ("h:", "'' is no port"),
        ("h:0", "'0' is no port"),
        ("h:65536", "'65536' is no port"),
        ("h:http", "'http' is no port"),
        (":1", "'' is no host"),
        ("", "'' is no host"),
        ("two words:1", "'two words' is no host"),
        ("[h]:1", "'h' in brackets is no IPv6 address"),
        ("[10.0.0.1]:1", "'10.0.0.1' in brackets is no IPv6 address"),
        ("::1", "an IPv6 address stands in brackets, as [::1]:13003"),
    ],
)
def test_what_cannot_be_taken_apart_says_why(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        addresses.split(text)


@given(st.ip_addresses())
def test_an_address_is_itself_with_or_without_brackets(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    expected = str(getattr(address, "ipv4_mapped", None) or address)
    assert addresses.numeric(str(address)) == expected
    if address.version == 6:
        assert addresses.numeric(f"[{address.exploded}]") == expected


@pytest.mark.parametrize("given", ["::ffff:127.0.0.1", "[::ffff:7f00:1]", "0:0:0:0:0:FFFF:127.0.0.1"])
def test_an_ipv4_address_in_ipv6s_clothes_is_one_that_can_be_listened_on(given: str) -> None:
    """A listener of IPv6 alone, as the proxy's is, cannot have it."""
    assert addresses.numeric(given) == "127.0.0.1"


def found(*entries: tuple[socket.AddressFamily, str]) -> Any:
    return lambda name, port, **_: [(family, socket.SOCK_STREAM, 6, "", (address, 0)) for family, address in entries]


def test_a_name_is_looked_up_and_ipv4_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    both = found((socket.AF_INET6, "fd00::7"), (socket.AF_INET, "10.0.0.7"))
    monkeypatch.setattr("socket.getaddrinfo", both)
    assert addresses.numeric("box.example") == "10.0.0.7"
    monkeypatch.setattr("socket.getaddrinfo", found((socket.AF_INET6, "fd00::7")))
    assert addresses.numeric("box.example") == "fd00::7"


def test_a_name_that_stands_for_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    with pytest.raises(ValueError, match=r"^expected an IP address or .* \(Name or service not known\)$"):
        addresses.numeric("nosuch.example")


@pytest.mark.parametrize("host", ["http://10.0.0.1", "10.0.0.1:8000", "a b", "[box]", "::1]", "fe80::1%eth0", "é"])
def test_what_is_neither_an_address_nor_a_name_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match=r"^expected an "):
        addresses.numeric(host)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", ""),
        ("::1", ""),
        ("0.0.0.0", ""),
        ("::", ""),
        ("192.0.2.7", "this machine has no such address"),
        ("2001:db8::7", "this machine has no such address"),
    ],
)
def test_only_this_machines_addresses_can_be_listened_on(address: str, reason: str) -> None:
    assert addresses.obstacle(address) == reason


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_port_that_is_taken_is_an_obstacle(address: str) -> None:
    with socket.create_server((address, 0), family=addresses.family(address)) as taken:
        port = taken.getsockname()[1]
        assert addresses.obstacle(address, port) == "Address already in use"
        assert addresses.obstacle(address) == ""
    assert addresses.obstacle(address, port) == ""
