"""What two instances must have in common before one may write into the other's cache, as a hash and as a difference."""

import hashlib
import json


def fingerprint(**facts: object) -> str:
    """A short hash of the facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def difference(theirs: str, ours: str) -> str:
    """What differs between two descriptions of a cache, each a JSON object of facts; both whole where one is not."""
    try:
        there, here = dict(json.loads(theirs)), dict(json.loads(ours))
    except (ValueError, TypeError):
        return f"the consumer's is {theirs!r}, ours {ours!r}"
    names = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    return "; ".join(f"{name}: the consumer has {there.get(name)}, we {here.get(name)}" for name in names)
