"""Whether an instance is in use: what speaks for and against it, and the proxy's own question that settles a doubt."""
