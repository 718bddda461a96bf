"""The worker: image events from Kafka in, verdicts out. Read ``pipeline/pipeline.py`` first.

The worker never imports torch: it runs the graphs that the exporter made with ONNX Runtime.
"""

import os

# Both are read when the library is loaded. ONNX Runtime's official builds report their use to their makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# NumPy multiplies small matrices here; threads of its own would only take the cores of ONNX Runtime and the decoders.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
