"""Which instances there are, from etcd, and how the proxy speaks to them."""
