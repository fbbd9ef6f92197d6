"""What the services need before they can start: environments, system packages, images, models."""
