"""Hosts and ports as people write them and as programs take them, for both families; joined and taken apart only here.

A host in a variable may be an IPv4 or IPv6 address, the latter with or without brackets, or a name. A name is looked up
once, when the settings are read: ZeroMQ and etcd do not take names for what they listen on.
"""

import errno
import ipaddress
import os
import re
import socket
from typing import Annotated

from pydantic import AfterValidator, HttpUrl, TypeAdapter

NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where a program listens that is to be reached at any address
NO_PASSWORD = "a user or a password has no place in it"
_HTTP_URL: TypeAdapter[HttpUrl] = TypeAdapter(HttpUrl)


def is_ipv6(host: str) -> bool:
    return ":" in host


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if is_ipv6(address) else socket.AF_INET


def join(host: str, port: int) -> str:
    """`host:port` as URLs, gRPC and ZeroMQ take it: an IPv6 address stands in brackets."""
    return f"{bracketed(host)}:{port}"


def bracketed(host: str) -> str:
    """The host as it stands in a URL."""
    return f"[{host}]" if is_ipv6(host) else host


def http_url(host: str, port: int) -> str:
    return f"http://{join(host, port)}"


def without_password(value: str) -> str:
    """A variable's value as messages may show it: without what stands before an @, and behind an option for a key."""
    of_url = re.sub(r"(?s)^([A-Za-z][\w+.-]*://)?.*@", r"\1***@", value)
    return re.sub(r"(?s)(--[\w-]*(?:key|token|password)[\s=]+).*?(?=\s--|$)", r"\1***", of_url)


def without_passwords(sentence: str) -> str:
    """The same for a sentence, which may quote such values, also as `name='value'`."""
    return re.sub(r"(?<!\S)(\w+=)?(['\"])?([A-Za-z][\w+.-]*://)?\S*@", r"\1\2\3***@", sentence)


def base_url(url: str, instead: str) -> HttpUrl:
    """Takes apart the HTTP URL of a server. Args: instead: where a secret belongs, as the end of a sentence.

    Raises: ValueError: it is none, or has a user or a password, which would come into command lines, logs and reports.
    """
    parsed = _HTTP_URL.validate_python(url)
    if parsed.username is not None or parsed.password is not None:
        raise ValueError(f"expected a URL without a user and a password: {instead}")
    return parsed


def split(text: str, default_port: int | None = None) -> tuple[str, int]:
    """Host, without brackets, and port of `host:port`, or of `host` where there is a default port.

    Raises: ValueError: what is wrong with it, as the end of a sentence that says what is expected.
    """
    if "@" in text:
        raise ValueError(NO_PASSWORD)
    if _version(text) == 6:
        raise ValueError(f"an IPv6 address stands in brackets, as [{text}]:{default_port or 13003}")
    host, port = text, ""
    if in_brackets := re.fullmatch(r"\[(.*)\](:.*)?", text):
        host, port = in_brackets[1], in_brackets[2] or ""
        if _version(host) != 6:
            raise ValueError(f"{host!r} in brackets is no IPv6 address")
    else:
        host, colon, port = text.partition(":")
        port = colon + port
        if not _version(host) and not NAME.fullmatch(host):
            raise ValueError(f"{host!r} is no host")
    if not port and default_port is not None:
        return host, default_port
    number = port.removeprefix(":")
    if not number.isdecimal() or not 0 < int(number) < 65536:
        raise ValueError(f"{number!r} is no port" if port else "the port is missing")
    return host, int(number)


def reachable(listening: str) -> str:
    """The address at which this machine reaches what listens on `listening`."""
    return EVERYWHERE.get(listening, listening)


def numeric(host: str) -> str:
    """The IP address that `host` is or stands for; of a name with addresses of both families the IPv4 one.

    Raises: ValueError: saying what is wrong, without the text itself.
    """
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if "%" in bare:
        raise ValueError("expected an address without a zone (%): other hosts have other zones")
    if _version(bare):
        address = ipaddress.ip_address(bare)
        # ::ffff:10.0.0.1 is that IPv4 address; a socket that is for IPv6 alone does not take it.
        return str(getattr(address, "ipv4_mapped", None) or address)
    if not NAME.fullmatch(bare):
        raise ValueError("expected an IP address or a host name, without scheme and port")
    return look_up(bare)


def look_up(name: str) -> str:
    """The address of a name, IPv4 where it has one. Raises: ValueError: it has none."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else "no host name"
        raise ValueError(f"expected an IP address or the name of a host, found none of that name ({reason})") from error
    _, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return str(address[0])


def obstacle(address: str, port: int = 0) -> str:
    """Why nothing can listen on this IP address (port 0: on any port), in a few words; empty when something could."""
    try:
        with socket.socket(family(address)) as probe:  # which does not listen, so that nobody meets it
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError as error:
        known = {
            errno.EADDRNOTAVAIL: "this machine has no such address",
            errno.EAFNOSUPPORT: "this machine has no IPv6",
        }
        return known.get(error.errno or 0) or os.strerror(error.errno or 0)
    return ""


def _listening(host: str) -> str:
    return numeric(host) if host else ""


def _own(host: str) -> str:
    address = _listening(host)
    if address in EVERYWHERE:
        raise ValueError(f"expected the one address at which others reach this host; LISTEN_HOST={address} is for all")
    return address


def _version(text: str) -> int:
    """4 or 6 for an address of that version, 0 for what is none."""
    try:
        return ipaddress.ip_address(text).version
    except ValueError:
        return 0


def _collector(url: str) -> str:
    if url:
        base_url(url, "they belong into OTEL_EXPORTER_OTLP_HEADERS, as authorization=Basic ...")
    return url


# A variable's value, as it was given, or empty: where OpenTelemetry's spans go.
CollectorUrl = Annotated[str, AfterValidator(_collector)]
# Variables' values, empty or IP addresses once they are read: where one listens, and where others reach this host.
ListenHost = Annotated[str, AfterValidator(_listening)]
OwnHost = Annotated[str, AfterValidator(_own)]
