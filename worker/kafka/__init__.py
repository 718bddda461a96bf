"""Everything that imports kafka-python; nothing else does. Read ``client.py`` first."""
