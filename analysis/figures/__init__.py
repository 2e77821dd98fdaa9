"""One file per figure: what is drawn, as a tidy frame, and the drawing of it."""
