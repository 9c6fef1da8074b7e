"""Which publications are new, where several readers of one node hear the same topic."""

REMEMBERED = 256  # publications, and publishers, that are told apart


class Publications:
    """Recognises a publication that another reader has handed on already.

    ``info`` is what rclpy says of a message. The content is never compared: the same word said again is
    a new publication. Where the middleware does not identify publications, every one counts as new.
    """

    def __init__(self):
        self._known: dict[tuple, None] = {}  # in the order they came
        self._newest: dict[bytes, int] = {}  # publisher -> the number, or the time, of its newest publication

    def new(self, info: dict, newest: bool = False) -> bool:
        """Return whether this publication is to be handed on.

        Where ``newest``, one that was overtaken by a later one of the same publisher is not.
        """
        sent = info.get("source_timestamp") or 0
        if not sent:
            return True
        publisher = bytes((info.get("publisher_gid") or {}).get("data", b""))
        number = info.get("publication_sequence_number")
        identity = (publisher, sent, number)
        if identity in self._known:
            return False
        _remember(self._known, identity, None)
        if newest and publisher:
            order = sent if number is None else number  # the time is wall time, which may be set back
            if order < self._newest.get(publisher, order):
                return False
            _remember(self._newest, publisher, order)
        return True


def _remember(known: dict, key, value) -> None:
    """Put something at the end, and let the oldest go."""
    known.pop(key, None)
    known[key] = value
    while len(known) > REMEMBERED:
        del known[next(iter(known))]
