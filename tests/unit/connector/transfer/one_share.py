"""A prompt with one share of it, as one registration asks for it."""

from typing import Any

from connector.cache.layout import KVLayout
from connector.control.messages import GroupBlocks, LayerPlace, Register
from connector.transfer.prompt import Prompt
from connector.transfer.share import Share
from tests.unit.connector.fake_layouts import FULL, SOURCE, TARGET, places


def registration(
    groups: list[GroupBlocks], tokens: int, layers: list[LayerPlace] | None = None, prompt: str = ""
) -> Register:
    return Register(
        transfer_id="t",
        engine_id="p",
        fingerprint="f",
        reply_to="tcp://d:1",
        rank=0,
        shares=1,
        segments={"tcp": "segment"},
        host_identity="",
        tokens=tokens,
        groups=groups,
        layers=places(TARGET) if layers is None else layers,
        prompt=prompt,
    )


def blocks(first: int, count: int) -> list[GroupBlocks]:
    return [GroupBlocks(first, list(range(100, 100 + count)))]


def up_to(tokens: int, first: int = 0, prompt: str = "") -> Register:
    """Of the only group, from the first block that the consumer lacks."""
    return registration(blocks(first, FULL.blocks(tokens) - first), tokens, prompt=prompt)


class Transfer:
    """A prompt with one share, which begins to exist with its registration."""

    def __init__(self, layout: KVLayout = SOURCE) -> None:
        self.prompt = Prompt(layout)
        self.share: Share | None = None

    def register(self, registered: Register) -> None:
        self.share = Share(self.prompt, registered)

    def schedule(self, tokens: int, *block_ids: list[int]) -> None:
        self.prompt.schedule(tokens, block_ids)
        if self.share is not None:
            self.share.check()

    def computed(self, end: int) -> None:
        for layer in range(len(self.prompt.layout.layers)):
            self.prompt.computed(layer, end)

    def has_work(self) -> bool:
        return self.share is not None and self.share.has_work()

    def __getattr__(self, name: str) -> Any:
        """What only a share has."""
        assert self.share is not None
        return getattr(self.share, name)
