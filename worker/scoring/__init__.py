"""From views to scores: ONNX sessions, the GPU, and the score cache."""
