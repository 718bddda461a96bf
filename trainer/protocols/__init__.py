"""One file an experiment, and what they share; ``trainer.reproduce`` runs them."""
