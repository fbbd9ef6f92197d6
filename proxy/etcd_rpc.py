"""etcd's generated gRPC code, imported in the one way in which today's protobuf takes it."""

import warnings

import stack.etcd  # noqa: F401  chooses protobuf's pure-Python implementation, which has to come first

with warnings.catch_warnings():
    # Generated for protobuf 3: every descriptor it creates is reported as deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from etcd3 import etcdrpc

__all__ = ["etcdrpc"]
