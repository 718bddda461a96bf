"""From PyTorch to ONNX: graph, runner, parity."""
