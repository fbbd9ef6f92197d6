"""The `etcd3` client and its generated gRPC code, imported in the one way in which today's protobuf takes them.

etcd3 0.12's generated code is older than protobuf 4 accepts; it works with protobuf's pure-Python implementation, which
a process chooses once, when protobuf is first imported. It is chosen here for this process alone, whatever the variable
says: the shell's value may be meant for other programs, and ours must not reach vLLM, which is slower with it.
"""

import os
import warnings

from stack.etcd.protobuf_choice import PROTOBUF_CHOICE

_given = os.environ.get(PROTOBUF_CHOICE)
os.environ[PROTOBUF_CHOICE] = "python"
try:
    from google.protobuf.internal import api_implementation
finally:
    if _given is None:
        del os.environ[PROTOBUF_CHOICE]
    else:
        os.environ[PROTOBUF_CHOICE] = _given
if api_implementation.Type() != "python":
    raise ImportError(
        f"protobuf={api_implementation.Type()!r}: expected 'python', which etcd3's generated code needs; "
        "import stack.etcd.rpc before anything that imports google.protobuf"
    )

with warnings.catch_warnings():
    # Generated for protobuf 3: every descriptor it creates is reported as deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from etcd3 import Etcd3Client, etcdrpc
    from etcd3 import client as open_client
    from etcd3.exceptions import Etcd3Exception

__all__ = ["Etcd3Client", "Etcd3Exception", "etcdrpc", "open_client"]
