"""Export of a network to a checked ONNX graph."""
