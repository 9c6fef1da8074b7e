"""One page about a checkpoint, for people: plots, films and figures in a single HTML file."""
