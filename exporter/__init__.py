"""From a checkpoint to a bundle that the worker serves. Read ``export.py`` first."""
