"""From scores to a decision and a verdict: calibration, thresholds, templates and policy."""
