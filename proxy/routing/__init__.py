"""Which instances serve a request, and when: their loads, what they hold of past prompts, and one queue."""
