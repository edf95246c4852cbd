"""Our use of TensorRT, held against the names that its real Python bindings have."""
