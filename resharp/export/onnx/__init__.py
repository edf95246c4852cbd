"""From a network to a checked ONNX graph."""
