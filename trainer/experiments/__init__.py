"""What experiments share: corpus, study, recipe, report, plots."""
