"""Numbered values that a client without a model saves and loads: tests/store/client.py, wherever it runs."""

from abc import ABC, abstractmethod


class Values(ABC):
    def put(self, first: int, count: int) -> int:
        """Returns: how many of so many values were saved."""
        (saved,) = self._client("put", first, count)
        return saved

    def get(self, first: int, count: int) -> tuple[int, int, int]:
        """Returns: how many of them have come with the right bytes, how many with wrong ones, how many from a disk."""
        right, wrong, on_disk = self._client("get", first, count)
        return right, wrong, on_disk

    @abstractmethod
    def _client(self, verb: str, first: int, count: int) -> list[int]:
        """What it prints."""
