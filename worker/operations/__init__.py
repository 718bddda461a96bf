"""Health, metrics, logs, TLS, and the tables of settings and metrics."""
