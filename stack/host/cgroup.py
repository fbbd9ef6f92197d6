"""What the kernel's control groups leave of a machine's memory and processors; v1, v2, or both side by side.

psutil, /proc/meminfo and os.cpu_count show the whole machine, also inside of a container or under a systemd limit. A
group is bound by its own limits and by those of every group around it, so all that can be seen from here are asked.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SELF = Path("/proc/self")


@dataclass(frozen=True)
class Limits:
    """Memory, and what is free of it, in bytes; `cpus` of whole ones. Infinite where nothing limits them."""

    memory: float = math.inf
    memory_available: float = math.inf
    cpus: float = math.inf


class _Group(NamedTuple):
    """A folder of the control group file system; `is_own` where this process itself is in it, not in one below."""

    folder: Path
    version: int
    is_own: bool


def limits(process: Path = SELF) -> Limits:
    """Of this process: of its own groups and of those around them. `process`: its folder in /proc."""
    return _smallest(list(_groups(process, "memory")), list(_groups(process, "cpu")))


def limits_of_everything(process: Path = SELF) -> Limits:
    """Of the outermost groups that can be seen, in which all others are: also those of a Docker engine here."""
    return _smallest(list(_groups(process, "memory"))[-1:], list(_groups(process, "cpu"))[-1:])


def _smallest(of_memory: list[_Group], of_cpu: list[_Group]) -> Limits:
    memory = [found for group in of_memory if (found := _memory(group))]
    return Limits(
        min((limit for limit, _ in memory), default=math.inf),
        min((available for _, available in memory), default=math.inf),
        min(map(_cpus, of_cpu), default=math.inf),
    )


def _groups(process: Path, controller: str) -> Iterator[_Group]:
    """Those that this process is in by `controller`, the innermost first; none where the file system is not mounted."""
    try:
        memberships = [line.split(":", 2) for line in (process / "cgroup").read_text().splitlines()]
        mounts = [line.split(" ") for line in (process / "mountinfo").read_text().splitlines()]
    except OSError:
        return
    v1 = next((path for _, names, path in memberships if controller in names.split(",")), None)
    v2 = next((path for number, names, path in memberships if (number, names) == ("0", "")), None)
    for fields in mounts:
        root, mount_point = _unescaped(fields[3]), Path(_unescaped(fields[4]))
        kind, _, options = fields[fields.index("-") + 1 :]
        if kind == "cgroup" and v1 is not None and controller in options.split(","):
            yield from _upwards(mount_point, root, v1, 1)
        elif kind == "cgroup2" and v1 is None and v2 is not None:
            yield from _upwards(mount_point, root, v2, 2)


def _upwards(mount_point: Path, root: str, path: str, version: int) -> Iterator[_Group]:
    """`root`: the group that is mounted, `path`: this process's; a namespace may show it outside of what is mounted."""
    is_below = path == root or path.startswith(root.rstrip("/") + "/")
    own = mount_point / path[len(root) :].strip("/") if is_below else mount_point
    own = own if own.is_dir() else mount_point
    for folder in (own, *own.parents):
        yield _Group(folder, version, folder == own)
        if folder == mount_point:
            return


def _memory(group: _Group) -> tuple[float, float] | None:
    """The limit and what is left of it, page cache counted as free; None where the group has no limits."""
    if group.version == 1:
        # An old kernel's group may leave those below it alone.
        if not group.is_own and _text(group.folder / "memory.use_hierarchy") == "0":
            return None
        limit = _number(group.folder / "memory.limit_in_bytes")
        used, prefix = _number(group.folder / "memory.usage_in_bytes"), "total_"
    else:
        # Above `high` nothing is killed, but everything in the group stands still to free memory.
        limit = min(_number(group.folder / "memory.max"), _number(group.folder / "memory.high"))
        used, prefix = _number(group.folder / "memory.current"), ""
    if math.isinf(limit) or math.isinf(used):
        return None
    cached = re.findall(rf"^{prefix}(?:in)?active_file (\d+)$", _text(group.folder / "memory.stat"), re.MULTILINE)
    return limit, max(0.0, limit - max(0.0, used - sum(map(int, cached))))


def _cpus(group: _Group) -> float:
    if group.version == 1:
        quota, period = (_number(group.folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    else:
        found = _text(group.folder / "cpu.max").split()
        quota, period = map(_parsed, found) if len(found) == 2 else (math.inf, math.inf)
    return math.inf if quota <= 0 or math.isinf(quota) or not 0 < period < math.inf else quota / period


def _number(file: Path) -> float:
    return _parsed(_text(file))


def _parsed(text: str) -> float:
    """Infinite: `max`, or a file that is not there."""
    return float(text) if re.fullmatch(r"-?\d+", text) else math.inf


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _unescaped(field: str) -> str:
    r"""mountinfo writes a blank as \040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
