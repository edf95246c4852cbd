"""What is measured, and how: time in pairs, processor contention, peak memory, matrix rates."""
