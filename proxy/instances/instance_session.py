"""How the proxy speaks to instances: one session each for the legs and for its own questions."""

from collections.abc import Mapping

import aiohttp
from aiohttp.connector import Connection

from proxy.settings import ProxySettings
from stack.instances.record import Instance

RANK_HEADER = "X-data-parallel-rank"  # vLLM: which of a server's engines takes the request


class InstanceResponse(aiohttp.ClientResponse):
    """After a 5xx its connection takes no other request.

    uvicorn closes it a moment after the answer to a request for which vLLM has raised, without having said so, and the
    next request on it would be lost: somebody else's.
    """

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        protocol = connection.protocol
        await super().start(connection)
        if self.status >= 500 and protocol is not None:
            if self.closed:  # the whole answer came at once, and the connection is back in the pool
                protocol.close()
            else:
                protocol.force_close()
        return self


def open_session(settings: ProxySettings, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    key = settings.openai_api_key
    return aiohttp.ClientSession(
        connector=connector,
        response_class=InstanceResponse,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.proxy_connect_timeout_s),
        headers={
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            **({"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}),
        },
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def pinned(headers: Mapping[str, str], instance: Instance) -> Mapping[str, str]:
    """With the engine's rank where its server has several, of which vLLM would choose one by itself."""
    return headers if instance.pin is None else {**headers, RANK_HEADER: str(instance.pin)}
