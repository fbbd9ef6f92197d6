"""What one vLLM instance is told, and the record that it keeps in etcd."""
