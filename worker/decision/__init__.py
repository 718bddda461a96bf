"""What a score means: templates, thresholds and policy make a verdict of it."""
