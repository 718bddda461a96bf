"""From views to scores: ONNX sessions, the GPU, the score cache."""
