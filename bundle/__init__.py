"""The contract between trainer, exporter and worker: a model bundle, a directory on disk.

It imports only NumPy, Pillow and pydantic, so that every part may import it: the trainer without Kafka, the worker
without torch. Read ``manifest.py`` first; ``preprocess.py`` is the one place where encoded bytes become pixels.
"""
