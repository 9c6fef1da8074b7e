"""Computing times: the ``benchmark`` verb."""
