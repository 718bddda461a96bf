"""What on-call engineers see: health, metrics, logs, TLS, tables of settings and metrics."""
