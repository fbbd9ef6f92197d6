"""A vLLM KV connector over Mooncake's transfer engine, and the launcher of the instances that use it.

Loaded by vLLM's API server too, so importing this package costs nothing and needs neither Mooncake nor a GPU.
"""

__version__ = "0.1.0"
