"""What export measures: the overlap of tiles, the largest activation, operations and memory."""
