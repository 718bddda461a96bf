"""From PyTorch to ONNX: graph, parity, precision."""
