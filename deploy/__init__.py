"""How Genprint is run: images, Compose, Kubernetes, monitoring, and servers on one machine without any of them."""
