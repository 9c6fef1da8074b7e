"""Quality of service of the topics, the nodes at their other ends, and which publications are new."""

import re

from rclpy.duration import Duration, Infinite
from rclpy.qos import (
    DurabilityPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
HISTORY = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
FRESH = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# Several publishers may share the joints: what one sends in a control step must not push out another's.
JOINTS = QoSProfile(depth=200, reliability=ReliabilityPolicy.BEST_EFFORT)
# Of the dead-man switch: a release must not be overwritten by the presses that follow.
SWITCH = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
GID = 16  # bytes that identify an endpoint
BARE = "_CREATED_BY_BARE_DDS_APP_"  # the name of one that uses DDS without ROS, such as some drivers
REMEMBERED = 512  # publications, and publishers, that are told apart
FASTEST = 1000  # messages a second of one publisher, about
SILENT = 2_000_000_000  # ns after which a publisher that is known by its numbers counts as ended


def type_name(kind: type) -> str:
    """Return the name of a message's type as in `ros2 topic list -t`, such as std_msgs/msg/String."""
    return f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"


def full_names(endpoints) -> list[str]:
    """Return the full names of the nodes that have these endpoints, in order, each once.

    ``endpoints`` are TopicEndpointInfo. A node whose name discovery does not know yet, or that is no ROS
    node, is left out.
    """
    return sorted({_full_name(info) for info in endpoints if _named(info)})


def endpoint_name(info) -> str:
    """Return the full name of the node that has an endpoint; empty where it is not known."""
    return _full_name(info) if _named(info) else ""


def _named(info) -> bool:
    return not re.fullmatch("_[A-Z_]*_", info.node_name)  # such as _NODE_NAME_UNKNOWN_


def _full_name(info) -> str:
    if info.node_name == BARE:
        return "a program without ROS"
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def describe_mismatch(node, topic: str, ours, publishing: bool, wait: bool = True) -> str | None:
    """Return a sentence with both sides' policies, for a topic where they are incompatible.

    None while the other side or its name is not known yet. Without ``wait`` the sentence has what is known,
    and is "" where nobody is incompatible.
    """
    find = node.get_subscriptions_info_by_topic if publishing else node.get_publishers_info_by_topic
    profile = QoSProfile(depth=ours) if isinstance(ours, int) else ours
    others = [
        info
        for info in find(node.resolve_topic_name(topic))
        if _full_name(info) != node.get_fully_qualified_name()
        and not compatible(*((profile, info.qos_profile) if publishing else (info.qos_profile, profile)))
    ]
    if not others:
        return None if wait else ""
    if wait and not all(map(_named, others)):
        return None
    theirs = sorted(
        f"{endpoint_name(i) or 'another program'} ({describe_policies(i.qos_profile)})" for i in others
    )
    verbs = ("publishes", "subscribes") if publishing else ("subscribes", "publishes")
    return (
        f"{topic} is not heard: {node.get_name()} {verbs[0]} {describe_policies(ours)}, "
        f"{', '.join(theirs)} {verbs[1]} it with an incompatible quality of service: set both to the same"
    )


def compatible(publishing: QoSProfile, subscribing: QoSProfile) -> bool:
    """Return whether what is published with one profile reaches who subscribes with the other."""
    return qos_check_compatible(_complete(publishing), _complete(subscribing))[0] != QoSCompatibility.ERROR


def _complete(profile: QoSProfile) -> QoSProfile:
    """Return a profile whose unset times are what they are for the middleware: infinite."""
    unset = Duration()
    return QoSProfile(
        depth=1,
        reliability=profile.reliability,
        durability=profile.durability,
        deadline=Infinite if profile.deadline == unset else profile.deadline,
        liveliness_lease_duration=Infinite
        if profile.liveliness_lease_duration == unset
        else profile.liveliness_lease_duration,
    )


def describe_policies(profile) -> str:
    """Return the policies of a profile, or of a depth alone, in words."""
    if isinstance(profile, int):
        return f"reliable, volatile, depth {profile}"
    return f"{profile.reliability.name.lower()}, {profile.durability.name.lower()}"


def _known(info) -> bool:
    # Discovery learns of an endpoint before it learns of its node.
    return _named(info) or info.node_name == BARE


def gid_of(info: dict) -> bytes:
    """Return the identifier of a message's publisher, ``GID`` bytes; empty where rclpy does not tell it."""
    return bytes((info.get("publisher_gid") or {}).get("data", b""))[:GID]


def other_publishers(node, topic: str) -> list[str]:
    """Return the names of the other nodes that publish ``topic``, as far as they are known."""
    own = (node.get_name(), node.get_namespace())
    infos = filter(_known, node.get_publishers_info_by_topic(topic))
    return sorted({_full_name(i) for i in infos if (i.node_name, i.node_namespace) != own})


class PublisherNames:
    """The names of a topic's publishers, by their identifier in rclpy's message info."""

    def __init__(self, node, topic: str):
        self._node, self._topic = node, topic
        self._names: dict[bytes, str] = {}

    def name(self, info: dict) -> str | None:
        """Return the name of a message's publisher; None where it is not known (yet).

        Two publishers of one node are told apart by a number.
        """
        gid = gid_of(info)
        if not gid:
            return None
        if gid not in self._names:
            self._look_up()
        return self._names.get(gid)

    def everybody(self) -> list[str]:
        """Return the names of all nodes that publish the topic, as far as they are known."""
        infos = filter(_known, self._node.get_publishers_info_by_topic(self._topic))
        return sorted(set(map(_full_name, infos)))

    def _look_up(self) -> None:
        infos = list(filter(_known, self._node.get_publishers_info_by_topic(self._topic)))
        present = {bytes(info.endpoint_gid)[:GID]: _full_name(info) for info in infos}
        self._names = {gid: name for gid, name in self._names.items() if gid in present}
        for gid, name in present.items():
            if gid not in self._names:
                taken = sum(known.partition(" (")[0] == name for known in self._names.values())
                self._names[gid] = f"{name} (publisher {taken + 1})" if taken else name


class Senders:
    """Tells the publishers of a topic apart, by rclpy's information about their messages.

    Where it does not name them (Jazzy), their numbers do: those of one publisher only grow, and hardly by
    more than messages can have come in the time that passed. Any other number is another publisher's, or that
    of one that was started again.
    """

    def __init__(self):
        self._newest: dict[bytes, tuple[int, int]] = {}  # by numbers: publisher -> (number, ns) of its newest
        self._count = 0

    def of(self, info: dict) -> bytes:
        """Return the identifier of a message's publisher, ``GID`` bytes.

        It is shorter where the numbers tell it, and empty where nothing does.
        """
        gid = gid_of(info)
        number, now = info.get("publication_sequence_number"), info.get("received_timestamp") or 0
        if gid or not number:
            return gid
        before = [
            (*newest, sender)
            for sender, newest in self._newest.items()
            if 0 < number - newest[0] <= 1 + FASTEST * abs(now - newest[1]) / 1e9
        ]
        if before:
            sender = max(before)[2]  # fewest lost since; of two alike the later: the other one may have ended
        else:
            self._count += 1
            sender = b"#%d" % self._count
        _remember(self._newest, sender, (number, now))
        return sender

    def names(self, infos: list) -> dict[bytes, str]:
        """Return who is who, of rclpy's information about all publishers of the topic.

        Of two that are known by numbers alone, and all that there are, it does not matter which is which.
        """
        named = {bytes(info.endpoint_gid)[:GID]: endpoint_name(info) for info in infos}
        last = max((at for _, at in self._newest.values()), default=0)
        sending = [sender for sender, (_, at) in self._newest.items() if last - at <= SILENT]
        if len(sending) == len(named) == 2:
            named |= dict(zip(sending, list(named.values()), strict=True))
        return named


class Publications:
    """Recognises a publication that another subscription of this node has delivered already.

    ``info`` is rclpy's information about a message. The content is never compared: an equal message that is
    published again is new. Where the middleware does not identify publications, each counts as new.
    """

    def __init__(self):
        self._known: dict[tuple, None] = {}  # in the order they came
        self._newest: dict[bytes, int] = {}  # publisher -> the number, or the time, of its newest publication

    def new(self, info: dict, newest: bool = False) -> bool:
        """Return whether this publication is to be delivered.

        With ``newest``, one that a later one of the same publisher has overtaken is not.
        """
        sent = info.get("source_timestamp") or 0
        if not sent:
            return True
        publisher = gid_of(info)
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
    """Put an entry at the end, and drop the oldest."""
    known.pop(key, None)
    known[key] = value
    while len(known) > REMEMBERED:
        del known[next(iter(known))]
