"""The worker: image events from Kafka in, verdicts out. Read ``pipeline.py`` first.

Never imports torch: it serves what the exporter made, through ONNX Runtime.
"""

import os

# ONNX Runtime's official builds report to their makers what they are used for. Not from here.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is loaded
# NumPy multiplies small matrices here; threads of its own would only take the cores of ONNX Runtime and the decoders.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # likewise
