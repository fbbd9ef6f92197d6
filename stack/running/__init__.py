"""The services, and the two ways to run them: with Docker, or as processes of this machine."""
