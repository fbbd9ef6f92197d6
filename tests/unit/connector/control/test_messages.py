"""Every message survives the wire; nothing else does."""

from typing import Any

import msgspec
import pytest

from connector.control.messages import (
    Cancel,
    Cancelled,
    Done,
    Failed,
    GroupBlocks,
    LayerPlace,
    Message,
    Register,
    decode,
    encode,
)

GROUPS = [GroupBlocks(0, [1, 2]), GroupBlocks(7, [])]
LAYERS = [LayerPlace("model.layers.0", 0, 64, 0, 2), LayerPlace("model.layers.1", (1 << 64) - 1, 20, 3, 1)]
MESSAGES: list[Message] = [
    Register("t", "p", "f", "tcp://d:1", 0, 1, {"tcp": "s"}, "h", 10, GROUPS, LAYERS, "digest"),
    Register("", "", "", "", 1, 2, {}, "", 1, [], [], checksum=True, timeline=True),
    Cancel("t", "tcp://d:1"),
    Done("t", 0, 1 << 40, 0, 3, 0.5, 0.0, "tcp"),
    Done("t", 0, 9, 0, 3, 0.5, 0.0, "tcp", timeline="[[[0,3,9,-5,7,1]],[[8,-9,9]]]"),
    Failed("t", 1, 2, "写 failed: x"),
    Cancelled("t", 1),
]
REGISTER: dict[str, Any] = msgspec.to_builtins(MESSAGES[0])


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_round_trip(message: Message) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"GET / HTTP/1.1\r\n\r\n", encode(MESSAGES[0])[:-1], b"\x80"])
def test_garbage_is_refused(payload: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(payload)


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "shutdown"},
        {"type": "cancelled"},
        {"type": "cancelled", "transfer_id": 5, "rank": 0},
        {"type": "failed", "transfer_id": "t", "rank": 0, "delivered_blocks": -1, "cause": "x"},
        REGISTER | {"tokens": 0},
        REGISTER | {"groups": "12"},
        REGISTER | {"groups": [[0, "12"]]},
        REGISTER | {"groups": [[0, [1.5]]]},
        REGISTER | {"groups": [[0, [-1]]]},
        REGISTER | {"groups": [[-1, [1]]]},
        REGISTER | {"layers": [["l", 0, 64, 0]]},
        REGISTER | {"layers": [["l", -4096, 64, 0, 1]]},
        REGISTER | {"layers": [["l", 0, -64, 0, 1]]},
        REGISTER | {"layers": [["l", 0, 64, -1, 1]]},
        REGISTER | {"layers": [["l", 0, 64, 0, 0]]},
        REGISTER | {"layers": [[5, 0, 64, 0, 1]]},
        REGISTER | {"shares": 0},
        REGISTER | {"segments": None},
        {name: value for name, value in REGISTER.items() if name != "reply_to"},
        [1, 2, 3],
        "register",
    ],
    ids=str,
)
def test_wrong_fields_are_refused(fields: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(msgspec.msgpack.encode(fields))


def test_a_field_of_a_later_version_is_ignored() -> None:
    later = {"type": "cancelled", "transfer_id": "t", "rank": 1, "since": "v2"}
    assert decode(msgspec.msgpack.encode(later)) == Cancelled("t", 1)
