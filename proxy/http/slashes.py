"""Paths with slashes too many at their end, as a base URL with a slash makes them: vLLM redirects, and so does this.

The target is a path alone. Starlette writes a whole URL, of the scheme and the host that it was asked by itself, which
behind a server that ends TLS is the wrong one.
"""

from urllib.parse import quote

from werkzeug.routing import Map


def without_slashes(path: str, query: bytes, known: Map) -> str | None:
    """Where to go for what was asked, None when it is not known without the slashes either."""
    bare = path.rstrip("/")
    if bare == path or bare.startswith("//") or not known.bind("").allowed_methods(bare):
        return None
    return quote(bare) + (f"?{query.decode('latin-1')}" if query else "")
