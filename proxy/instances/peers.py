"""What other proxies before the same instances have in hand there: each tells the others, on a stream that stays open.

Without it everyone balances its own requests alone, and what is queued by the others is a surprise:
docs/scaling.md has what that costs, and what is left of it when news is up to PERIOD_S old. It is an aid: a peer that
is not heard of counts as having nothing, which is how it was without.

A stream is lines of JSON: first all instances at which there is something in hand, then those at which it has changed.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import aiohttp
import structlog
from pydantic import BaseModel

from proxy.routing.dispatch import IDLE, Load

PATH = "/loads"
PERIOD_S = 0.01
PERIOD_FOR_EACH_S = 50e-6  # of the instances at which there is something: of a thousand, 20 times a second
SIGN_EVERY_S = 1.0  # a line without news
SILENCE_S = 3.0  # then a peer is not heard of any more, and its requests are forgotten
AGAIN_S = 1.0  # after a stream has ended
LOOK_UP_S = 5.0  # a name may stand for more peers, or others
MOST_TOLD = 32  # other proxies
MOST_BYTES = 1 << 20  # of one line: ten thousand instances

Address = tuple[str, int]
Loads = dict[str, tuple[int, int, int]]

log = structlog.get_logger()


class Line(BaseModel):
    """proxy: whose. loads: by instance id, requests and tokens in hand, and requests that wait for their cache."""

    proxy: str
    loads: Loads


class Teller:
    """Of this proxy, whose id is `own_id`. in_hand: by instance id; ended: whether to tell no more."""

    def __init__(self, own_id: str, in_hand: Callable[[], Mapping[str, Load]], ended: Callable[[], bool]) -> None:
        self._own_id = own_id
        self._in_hand = in_hand
        self._ended = ended
        self._told = 0

    async def lines(self) -> AsyncIterator[bytes]:
        """To one other proxy. Nothing beyond MOST_TOLD at once: whoever can reach the path could ask for any number."""
        if self._told >= MOST_TOLD:
            return
        self._told += 1
        told: Loads = {}
        last = float("-inf")
        try:
            while not self._ended():
                now = asyncio.get_running_loop().time()
                in_hand = self._in_hand().items()
                loads = {name: (load.outstanding, load.tokens, load.to_come) for name, load in in_hand}
                changed = {name: load for name, load in loads.items() if told.get(name) != load}
                changed |= dict.fromkeys(told.keys() - loads.keys(), (0, 0, 0))
                if changed or now - last >= SIGN_EVERY_S:
                    yield Line(proxy=self._own_id, loads=changed).model_dump_json().encode() + b"\n"
                    told, last = loads, now
                await asyncio.sleep(_period_s(len(loads)))
        finally:
            self._told -= 1


class Peers:
    """From `start` to `close`.

    Args: names: of one peer each, or of all of them, this one too; own_id: which this one tells; take: the sums.
    """

    def __init__(self, names: Sequence[Address], own_id: str, take: Callable[[Mapping[str, Load]], None]) -> None:
        self._names = names
        self._own_id = own_id
        self._take = take
        self._heard: dict[Address, Line] = {}  # with all that it has told
        self._followed: dict[Address, asyncio.Task[None]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._session: aiohttp.ClientSession

    @property
    def heard(self) -> int:
        """How many others have told what they have in hand."""
        return len({line.proxy for line in self._heard.values()})

    def start(self) -> None:
        if self._names:
            self._looking = asyncio.get_running_loop().create_task(self._look_up())

    async def close(self) -> None:
        tasks = [*self._followed.values(), *([self._looking] if self._looking else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()

    async def _look_up(self) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
        async with aiohttp.ClientSession(
            timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), read_bufsize=MOST_BYTES
        ) as self._session:
            while True:
                found = {address for name in self._names for address in await _addresses(*name)}
                for address in self._followed.keys() - found:
                    self._followed.pop(address).cancel()
                for address in found - self._followed.keys():
                    self._followed[address] = asyncio.get_running_loop().create_task(self._follow(address))
                await asyncio.sleep(LOOK_UP_S)

    async def _follow(self, address: Address) -> None:
        host, port = address
        url = f"http://[{host}]:{port}{PATH}" if ":" in host else f"http://{host}:{port}{PATH}"
        while True:
            try:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):  # ValidationError is one
                    async with self._session.get(url, allow_redirects=False) as answer:
                        if await self._is_own(address, answer):
                            return  # as long as it is looked up
            finally:
                if self._heard.pop(address, None) is not None:
                    self._changed()
            await asyncio.sleep(AGAIN_S)

    async def _is_own(self, address: Address, answer: aiohttp.ClientResponse) -> bool:
        """Whether the stream is this proxy's own; else returns at its end."""
        known: Line | None = None
        async for text in answer.content:
            line = Line.model_validate_json(text)
            if line.proxy == self._own_id:
                return True
            if known is None or known.proxy != line.proxy:
                known = self._heard[address] = line
            else:
                told = known.loads | line.loads
                known.loads = {name: load for name, load in told.items() if load[0]}
            self._changed()
        return False

    def _changed(self) -> None:
        """The sums are due, once for the news of all that come at a time."""
        if self._timer is None:
            most = max((len(line.loads) for line in self._heard.values()), default=0)
            self._timer = asyncio.get_running_loop().call_later(_period_s(most) / 4, self._tell)

    def _tell(self) -> None:
        self._timer = None
        sums: dict[str, Load] = {}
        for line in {line.proxy: line for line in self._heard.values()}.values():  # one may have several addresses
            for name, (outstanding, tokens, to_come) in line.loads.items():
                if outstanding:
                    known = sums.get(name, IDLE)
                    sums[name] = Load(
                        known.outstanding + outstanding, 0, known.tokens + tokens, known.to_come + to_come
                    )
        self._take(sums)


def _period_s(instances: int) -> float:
    """Between news of so many instances at which there is something in hand."""
    return max(PERIOD_S, PERIOD_FOR_EACH_S * instances)


async def _addresses(host: str, port: int) -> list[Address]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        log.warning("a name of PROXY_PEERS was not found", host=host, error=str(error))
        return []
    return [(str(address[0]), port) for *_, address in found]
