"""The networks, one file each, and how a state dict of theirs is recognized (``*_keys``)."""
