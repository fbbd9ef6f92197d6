"""HTTP as clients of all kinds speak it, beyond what uvicorn does by itself."""
