"""`Upgrade` is ignored, as RFC 9110 allows.

httptools drops the body of such a request, and Java's HttpClient asks every server for HTTP/2 that way. The parser
takes what follows the head for another protocol: another parser is shown the same head once more, without the header.
"""

from collections.abc import Iterable

from httptools import HttpRequestParser


def without_upgrade(parser: HttpRequestParser, url: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head that `parser` has just read.

    Args: url: as it stood there; headers: their names in small letters.
    """
    kept = b"".join(b"%s: %s\r\n" % header for header in headers if header[0] != b"upgrade")
    return b"%s %s HTTP/%s\r\n%s\r\n" % (parser.get_method(), url, parser.get_http_version().encode(), kept)
