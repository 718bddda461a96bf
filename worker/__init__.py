"""The worker: image events from Kafka in, verdicts out. Read ``pipeline.py`` first.

Never imports torch: it serves what the exporter made, through ONNX Runtime.
"""
