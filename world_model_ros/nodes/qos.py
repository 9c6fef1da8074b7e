"""Quality of service of our topics, and what to say where two sides do not fit together."""

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
HISTORY = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
FRESH = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# Several publishers may share the joints: the newest message of one must not push out another's.
JOINTS = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)


def describe_mismatch(node, topic: str, ours, publishing: bool) -> str | None:
    """Return a sentence with both sides' policies, for a topic where they are incompatible.

    None while the other side's name is not known yet.
    """
    find = node.get_subscriptions_info_by_topic if publishing else node.get_publishers_info_by_topic
    others = [i for i in find(node.resolve_topic_name(topic)) if i.node_name != node.get_name()]
    if not others or any("UNKNOWN" in info.node_name for info in others):
        return None
    theirs = sorted(
        f"{i.node_namespace.rstrip('/')}/{i.node_name} ({_policies(i.qos_profile)})" for i in others
    )
    verbs = ("publishes", "subscribes") if publishing else ("subscribes", "publishes")
    return (
        f"{topic} is not heard: {node.get_name()} {verbs[0]} {_policies(ours)}, {', '.join(theirs)} "
        f"{verbs[1]} it otherwise: make the two sides alike"
    )


def _policies(profile) -> str:
    if isinstance(profile, int):
        return f"reliable, volatile, depth {profile}"
    return f"{profile.reliability.name.lower()}, {profile.durability.name.lower()}"
