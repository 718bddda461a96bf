"""What is deployed, checked without a cluster: rendered, compared with schemas and with the worker itself."""
