"""A store whose owner has little memory and a disk behind it."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from stack.running import store
from tests.real_stack import answers, wait_until
from tests.store.processes import HOST, PROGRAMS, START_LIMIT_S, Part, Store

SEGMENT_BYTES = 16 << 20  # 8,192 tokens of the tiny model
DISK_BYTES = 64 << 20
LEASE_S = 1.0  # so long memory keeps what was saved or asked for last; 10 s by default


class StoreWithDisk(Store):
    master_ports = (24071, 24072)
    owner_ports = (24073, 24074)
    address = f"{HOST}:{master_ports[0]}"
    segment_bytes = SEGMENT_BYTES

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.disk = folder / "disk"
        self.disk.mkdir()

    def start(self, part: Part) -> None:
        super().start(part)
        if part == "owner":  # until it has its disk: what is saved before is never written there
            health = f"http://{HOST}:{self.owner_ports[1]}/health"
            wait_until(lambda: answers(health), START_LIMIT_S, f"the owner is up:\n{self.log}")

    @property
    def bytes_on_disk(self) -> int:
        """That its files take."""
        return sum(file.st_blocks * 512 for file in self._files("*"))

    @property
    def saved_on_disk(self) -> int:
        """Bytes of what was saved, and of its keys."""
        return sum(file.st_size for file in self._files("*.bucket"))

    def _files(self, pattern: str) -> Iterator[os.stat_result]:
        for path in self.disk.rglob(pattern):
            with suppress(FileNotFoundError):  # the owner deletes the oldest
                found = path.stat()
                if stat.S_ISREG(found.st_mode):
                    yield found

    def _command(self, part: Part) -> tuple[str, ...]:
        if part == "master":
            lease = f"--default_kv_lease_ttl={int(LEASE_S * 1000)}"
            return (*store.master_command(PROGRAMS, HOST, *self.master_ports), store.WITH_DISK, lease)
        command = store.owner_command(PROGRAMS, HOST, *self.owner_ports, self.address, self.segment_bytes)
        return (*command, store.WITH_DISK)

    def _variables(self, part: Part) -> dict[str, str]:
        return store.on_disk(self.disk, DISK_BYTES) if part == "owner" else {}

    def _http(self, part: Part) -> str:
        return f"http://{HOST}:{self.master_ports[1]}"
