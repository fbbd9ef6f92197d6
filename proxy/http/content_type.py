"""The type of a body: JSON, said to be JSON, as plain vLLM asks for.

Not for the parser's sake. Any web page may post text or a form to any server, its visitor's own included, without
asking first (a "simple" request of CORS); a body that is said to be JSON needs a preflight.
"""

from proxy.errors import BadRequest

JSON = "application/json"


def require_json(content_type: str | None) -> None:
    """Raises: BadRequest: which is vLLM's status for it too."""
    if content_type == JSON:
        return
    media_type = (content_type or "").partition(";")[0]
    if media_type.strip().lower() != JSON:
        raise BadRequest(f"Unsupported Media Type: Only '{JSON}' is allowed, and Content-Type is {media_type[:100]!r}.")
