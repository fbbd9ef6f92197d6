"""A fleet of up to a thousand scripted instances in a real etcd: what discovery, dispatch and the status paths take."""
