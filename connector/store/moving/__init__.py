"""How saves and loads move: in which parts, directly or through host memory."""
