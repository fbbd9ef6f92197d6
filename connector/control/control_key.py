"""The key that every control channel of one stack shares, as a ZeroMQ CURVE key pair.

Both ends derive the same key pair from the stack's secret and accept no other, so knowing the secret is what
authenticates a peer (RFC 26/CurveZMQ: any 32 bytes are a Curve25519 secret key).
"""

import hashlib
from dataclasses import dataclass

import zmq
from zmq.utils import z85


@dataclass(frozen=True)
class ControlKey:
    """A CURVE key pair in Z85; the secret half never appears in a representation or a log."""

    public: bytes
    _secret: bytes

    def __repr__(self) -> str:
        return f"ControlKey(public={self.public!r})"

    @classmethod
    def from_secret(cls, secret: str) -> "ControlKey":
        """Raises: ValueError: when the secret is shorter than 16 characters."""
        if len(secret.strip()) < 16:
            raise ValueError("STACK_KEY has fewer than 16 characters: make one with `openssl rand -hex 32`")
        private = z85.encode(hashlib.sha256(b"pd-stack control channel v1\0" + secret.strip().encode()).digest())
        return cls(public=zmq.curve_public(private), _secret=private)

    def serve(self, socket: zmq.Socket[bytes]) -> None:
        """Make `socket` a CURVE server; its context needs an authenticator that accepts only `public`."""
        socket.curve_server = True
        socket.curve_secretkey = self._secret
        socket.curve_publickey = self.public

    def connect(self, socket: zmq.Socket[bytes]) -> None:
        """Make `socket` a CURVE client that talks only to a server with this same key."""
        socket.curve_secretkey = self._secret
        socket.curve_publickey = self.public
        socket.curve_serverkey = self.public
