"""The benchmark suite: throughput and memory, measured only after a parity check."""
