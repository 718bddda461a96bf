"""Published experiments, one file each; ``trainer.experiments.reproduce`` runs them."""
