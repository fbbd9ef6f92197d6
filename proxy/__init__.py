"""The OpenAI-compatible front of the stack: one client request becomes a prefill and a decode leg, sent at once."""
