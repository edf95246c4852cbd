"""Measurements of export: tile overlap, largest activation, operations and memory."""
