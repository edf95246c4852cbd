"""Container parsers, one module per format: facts about an image without decoding it."""
