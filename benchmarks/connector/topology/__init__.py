"""Which servers there are, on which hosts, and the ways of a request through them."""
