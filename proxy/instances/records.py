"""The view that etcd's records amount to; each is read once, for as long as it stays as it is.

A record is some kilobytes of JSON and takes tens of microseconds to read: of a thousand, to read all of them at every
change would take longer than to hear of it, while requests wait for the interpreter.
"""

from collections.abc import Mapping

from pydantic import ValidationError

from proxy.routing.fleet import View
from stack.instances.record import Instance


class Records:
    """Of one thread."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[bytes, tuple[Instance, ...] | str]] = {}  # by key: its value, and what that is

    def view_of(self, records: Mapping[str, bytes], revision: int) -> View:
        """Of these keys and values: of a server with several engines each is an instance."""
        self._read = {
            key: known if (known := self._read.get(key)) is not None and known[0] == value else (value, _read(value))
            for key, value in sorted(records.items())
        }
        instances: list[Instance] = []
        unreadable: dict[str, str] = {}
        for key, (_, read) in self._read.items():
            if isinstance(read, str):
                unreadable[key] = read
            else:
                instances += read
        return View(tuple(instances), _superseded(instances), unreadable, revision)


def view_of(records: Mapping[str, bytes], revision: int) -> View:
    """As `Records.view_of`, of records of which none has been read before."""
    return Records().view_of(records, revision)


def _read(value: bytes) -> tuple[Instance, ...] | str:
    """The instances, or what is wrong with the record."""
    try:
        return Instance.model_validate_json(value).by_engine()
    except ValidationError as error:
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())


def _superseded(instances: list[Instance]) -> dict[str, str]:
    """A restarted server has the old one's URL at once, but the old one's record stays until its lease ends."""
    newest: dict[str, Instance] = {}
    for instance in sorted(instances, key=lambda instance: instance.started_at):
        newest[instance.url] = instance
    return {
        instance.instance_id: newest[instance.url].server
        for instance in instances
        if newest[instance.url].server != instance.server
    }
