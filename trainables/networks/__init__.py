"""One file per family of networks; `trainables.models` has the table of their names."""
