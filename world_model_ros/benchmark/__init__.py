"""How long everything takes: the ``benchmark`` verb."""
