"""Array layouts, alpha and resizing."""
