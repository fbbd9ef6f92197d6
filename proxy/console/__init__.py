"""The console: a page that shows what the proxy knows, and the JSON that it is drawn from."""
