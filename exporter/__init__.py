"""From a checkpoint to a bundle that the worker serves. Read ``export.py`` first."""

import os

# ONNX Runtime's official builds report to their makers what they are used for. Not from here.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is loaded
