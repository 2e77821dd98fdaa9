"""How the kept part of the data is chosen: scores first, then a selection."""
