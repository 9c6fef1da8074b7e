"""Quality of service of our topics, and what to say where two sides do not fit together."""

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
HISTORY = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
FRESH = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


def describe_mismatch(node, topic: str, ours, publishing: bool) -> str:
    """Return a sentence with both sides' policies, for a topic where they are incompatible."""
    find = node.get_subscriptions_info_by_topic if publishing else node.get_publishers_info_by_topic
    others = [
        f"{info.node_namespace.rstrip('/')}/{info.node_name} {_policies(info.qos_profile)}"
        for info in find(node.resolve_topic_name(topic))
        if info.node_name != node.get_name()
    ]
    mine = "publishes" if publishing else "subscribes"
    theirs = "subscribers" if publishing else "publishers"
    return (
        f"{topic} is not heard: {node.get_name()} {mine} {_policies(ours)}, its {theirs} are "
        f"{'; '.join(others) or 'not known yet'}: make the two alike"
    )


def _policies(profile) -> str:
    if isinstance(profile, int):
        return f"reliable, volatile, depth {profile}"
    return f"{profile.reliability.name.lower()}, {profile.durability.name.lower()}"
