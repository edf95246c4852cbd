"""What export measures on a graph: overlap, activations, memory, operations."""
