"""The worker: image events from Kafka in, verdicts out. Read ``pipeline.py`` first.

Never imports torch: it serves what the exporter made, through ONNX Runtime.
"""

import os

# NumPy multiplies small matrices here; threads of its own would only take the cores of ONNX Runtime and the decoders.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is loaded, which is after this
