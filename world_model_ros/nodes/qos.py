"""Quality of service of our topics, and what to say where two sides do not fit together."""

import re

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
# Several publishers may share the joints: the newest message of one must not push out another's.
JOINTS = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)


def full_names(endpoints) -> list[str]:
    """Return the full names of the nodes that have these endpoints, in order, each once.

    ``endpoints`` are TopicEndpointInfo. A node whose name discovery does not know yet, or that is no ROS
    node, is left out.
    """
    return sorted({_full_name(info) for info in endpoints if _named(info)})


def _named(info) -> bool:
    return not re.fullmatch("_[A-Z_]*_", info.node_name)  # such as _NODE_NAME_UNKNOWN_


def _full_name(info) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def describe_mismatch(node, topic: str, ours, publishing: bool, wait: bool = True) -> str | None:
    """Return a sentence with both sides' policies, for a topic where they are incompatible.

    None while the other side or its name is not known yet. Not to ``wait`` any longer says what is known:
    nothing where nobody is incompatible.
    """
    find = node.get_subscriptions_info_by_topic if publishing else node.get_publishers_info_by_topic
    profile = QoSProfile(depth=ours) if isinstance(ours, int) else ours
    others = [
        info
        for info in find(node.resolve_topic_name(topic))
        if _full_name(info) != node.get_fully_qualified_name()
        and not _compatible(*((profile, info.qos_profile) if publishing else (info.qos_profile, profile)))
    ]
    if not others:
        return None if wait else ""
    if wait and not all(map(_named, others)):
        return None
    theirs = sorted(
        f"{_full_name(i) if _named(i) else 'another program'} ({_policies(i.qos_profile)})" for i in others
    )
    verbs = ("publishes", "subscribes") if publishing else ("subscribes", "publishes")
    return (
        f"{topic} is not heard: {node.get_name()} {verbs[0]} {_policies(ours)}, {', '.join(theirs)} "
        f"{verbs[1]} it otherwise: make the two sides alike"
    )


def _compatible(publishing, subscribing) -> bool:
    return qos_check_compatible(publishing, subscribing)[0] != QoSCompatibility.ERROR


def _policies(profile) -> str:
    if isinstance(profile, int):
        return f"reliable, volatile, depth {profile}"
    return f"{profile.reliability.name.lower()}, {profile.durability.name.lower()}"
