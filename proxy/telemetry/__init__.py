"""What is told of requests and instances: response headers, metrics, spans, the log."""
