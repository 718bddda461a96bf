"""One file an experiment, and what they share; ``trainer.experiments.reproduce`` runs them."""
