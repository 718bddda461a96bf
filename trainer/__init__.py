"""Datasets in, checkpoints and their evaluation out. Read ``loop.py`` first."""
