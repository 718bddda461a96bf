"""The loop and who waits for whom. Read ``pipeline.py`` first."""
