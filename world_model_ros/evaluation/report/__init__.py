"""One page about a checkpoint, for people: plots, films and tables in a single HTML file."""
