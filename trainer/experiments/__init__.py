"""Shared parts of the experiments: corpus, study, recipe, report, plots."""
