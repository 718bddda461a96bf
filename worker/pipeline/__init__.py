"""The main loop, the order of events, and the stages between event and answer. Read ``pipeline.py`` first."""
