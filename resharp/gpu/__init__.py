"""The machine: GPUs, host memory, TensorRT's variants and the CUDA provider."""
