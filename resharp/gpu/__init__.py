"""GPUs, host memory, TensorRT variants and the CUDA providers."""
