"""What all servers of this folder share."""

from tests.tiny_servers.fixtures import etcd_endpoint, fleet, folder

__all__ = ["etcd_endpoint", "fleet", "folder"]
