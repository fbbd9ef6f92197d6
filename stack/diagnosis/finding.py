"""One line of the doctor."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """An error keeps the stack from starting, a warning does not."""

    severity: Literal["error", "warning"]
    what: str
    found: str
    needed: str
    fix: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.what}: found {self.found}; needed {self.needed}; fix: {self.fix}"
