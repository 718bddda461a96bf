"""Training data from photographs alone."""
