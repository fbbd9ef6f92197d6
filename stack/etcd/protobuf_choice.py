"""protobuf's variable for its implementation. No process of the stack follows the shell's: the client of etcd needs one
implementation (`rpc.py`), and everything else is best off with protobuf's own choice."""

PROTOBUF_CHOICE = "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"
