"""What a bundle holds beside its graphs: calibration, templates, probe, model card."""
