"""Who publishes a topic, by names that people know."""

GID = 16  # bytes that identify an endpoint


def _known(info) -> bool:
    # Discovery learns of an endpoint before it learns of its node.
    return "UNKNOWN" not in info.node_name and "UNKNOWN" not in info.node_namespace


def _name(info) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def other_publishers(node, topic: str) -> list[str]:
    """Return the names of the other nodes that publish ``topic``, as far as they are known."""
    own = (node.get_name(), node.get_namespace())
    infos = filter(_known, node.get_publishers_info_by_topic(topic))
    return sorted({_name(i) for i in infos if (i.node_name, i.node_namespace) != own})


class PublisherNames:
    """The names of a topic's publishers, by what identifies them in rclpy's message info."""

    def __init__(self, node, topic: str):
        self._node, self._topic = node, topic
        self._names: dict[bytes, str] = {}

    def name(self, info: dict) -> str | None:
        """Return the name of a message's publisher; None where it is not known (yet).

        Two publishers of one node are told apart by a number.
        """
        gid = bytes((info.get("publisher_gid") or {}).get("data", b""))[:GID]
        if not gid:
            return None
        if gid not in self._names:
            self._look_up()
        return self._names.get(gid)

    def everybody(self) -> list[str]:
        """Return the names of all nodes that publish the topic, as far as they are known."""
        infos = filter(_known, self._node.get_publishers_info_by_topic(self._topic))
        return sorted(set(map(_name, infos)))

    def _look_up(self) -> None:
        infos = list(filter(_known, self._node.get_publishers_info_by_topic(self._topic)))
        present = {bytes(info.endpoint_gid)[:GID]: _name(info) for info in infos}
        self._names = {gid: name for gid, name in self._names.items() if gid in present}
        for gid, name in present.items():
            if gid not in self._names:
                taken = sum(known.partition(" (")[0] == name for known in self._names.values())
                self._names[gid] = f"{name} (publisher {taken + 1})" if taken else name
