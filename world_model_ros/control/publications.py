"""Which publications are new, where several readers of one node hear the same topic."""

REMEMBERED = 256  # publications, and publishers, that are told apart


class Publications:
    """Recognises a publication that another reader has handed on already.

    ``info`` is what rclpy says of a message. The content is never compared: the same word said again is
    a new publication. Where the middleware does not identify publications, every one counts as new.
    """

    def __init__(self):
        self._known: dict[tuple, None] = {}  # in the order they came
        self._newest: dict[bytes, int] = {}  # publisher -> when its newest publication was sent

    def new(self, info: dict, newest: bool = False) -> bool:
        """Return whether this publication is to be handed on.

        Where ``newest``, one that was overtaken by a later one of the same publisher is not.
        """
        sent = info.get("source_timestamp") or 0
        if not sent:
            return True
        publisher = bytes((info.get("publisher_gid") or {}).get("data", b""))
        identity = (publisher, sent, info.get("publication_sequence_number"))
        if identity in self._known:
            return False
        _remember(self._known, identity, None)
        if newest and publisher:
            if sent < self._newest.get(publisher, sent):
                return False
            _remember(self._newest, publisher, sent)
        return True


def _remember(known: dict, key, value) -> None:
    """Put something at the end, and let the oldest go."""
    known.pop(key, None)
    known[key] = value
    while len(known) > REMEMBERED:
        del known[next(iter(known))]
