"""What one client's connection may cost, and what it lives through, beyond what uvicorn does by itself."""
