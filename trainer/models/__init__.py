"""One file a system of the literature."""
