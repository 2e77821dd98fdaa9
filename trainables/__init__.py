"""One trial: its data, its networks, its loss, and what its record is called."""
