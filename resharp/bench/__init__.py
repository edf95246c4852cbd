"""The benchmark suite: throughput against memory, with parity before every number."""
