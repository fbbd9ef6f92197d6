"""How the proxy speaks to instances: one session each for the legs and for its own questions."""

import aiohttp

from proxy.settings import ProxySettings


def open_session(settings: ProxySettings, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    key = settings.openai_api_key
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.proxy_connect_timeout_s),
        headers={
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            **({"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}),
        },
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )
