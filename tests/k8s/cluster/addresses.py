"""The addresses inside the tests' own network namespace, in which nothing else lives.

The control plane and the tests are at HOST; node i is at the (i+1)-th address of the same network and its pods in
10.244.i.0/24, which every node and the tests reach by a route.
"""

HOST = "10.97.0.1"
PREFIX = 24
SERVICES = "10.96.0.0/16"
PODS = "10.244.0.0/16"
API_URL = f"https://{HOST}:6443"
DOMAIN = "cluster.local"


def node(number: int) -> str:
    return f"10.97.0.{number + 1}"


def pods(number: int) -> str:
    """The network of a node's pods."""
    return f"10.244.{number}.0/24"


def pods_gateway(number: int) -> str:
    return f"10.244.{number}.1/24"
