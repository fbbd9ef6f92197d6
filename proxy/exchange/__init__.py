"""One client request over both of its legs, from its headers to the last byte of its answer."""
