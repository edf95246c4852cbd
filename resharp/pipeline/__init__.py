"""What folders, video and clusters restore with: a config, restorers of it, and staged threads."""
