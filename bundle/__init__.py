"""The contract between trainer, exporter and worker: a model bundle, a directory on disk.

Imports NumPy, Pillow and pydantic only, so that every side may import it: the trainer without Kafka, the worker
without torch. Read ``manifest.py`` first; ``preprocess.py`` is the one place where encoded bytes become pixels.
"""
