"""From a data set to a checkpoint. Read ``loop.py`` first."""
