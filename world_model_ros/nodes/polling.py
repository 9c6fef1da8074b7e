"""Messages that come faster than they are needed: read when they are, and only the newest."""

from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.subscription import Subscription

from world_model_ros.nodes.qos import gid_of


def polled_subscription(node, kind, topic: str, profile) -> Subscription:
    """Subscribe to messages that are read when they are needed and wake no executor.

    Without events: to wait for one is to wait for the reader, and a reader with unread messages never lets an
    executor sleep. With a best-effort, volatile ``profile`` nobody's quality of service is incompatible.
    """
    events = SubscriptionEventCallbacks(use_default_callbacks=False)
    return node.create_subscription(
        kind, topic, lambda _: None, profile, callback_group=NeverWakes(), event_callbacks=events
    )


class NeverWakes(CallbackGroup):
    """Keeps its subscriptions out of the executor's wait set."""

    def can_execute(self, entity) -> bool:
        """Return whether it is no subscription."""
        return not isinstance(entity, Subscription)

    def beginning_execution(self, entity) -> bool:  # noqa: ARG002
        """Allow it."""
        return True

    def ending_execution(self, entity) -> None:
        """Do nothing."""


class NewestJoints:
    """The newest JointState of each publisher and set of joints since the last call of ``read``.

    rclpy needs a third of a millisecond for a callback, which at 1 kHz is a third of a core. A message counts
    as new when it is read, so it looks up to one control step younger than it is.
    """

    def __init__(self, *subscriptions: Subscription):
        self._subscriptions = subscriptions

    def read(self) -> list[tuple]:
        """Return (message, rclpy's info about it), topic by topic in the order they came; none is kept."""
        newest: dict = {}
        for subscription in self._subscriptions:
            handle, kind = subscription.handle, subscription.msg_type
            with handle:
                while (taken := handle.take_message(kind, False)) is not None:
                    message, info = taken
                    gid = gid_of(info)
                    # Where publishers cannot be told apart, none may hide another's.
                    key = (gid, tuple(message.name)) if gid else len(newest)
                    newest.pop(key, None)
                    newest[key] = message, info
        return list(newest.values())


class Newest:
    """The newest message of a subscription that never wakes."""

    def __init__(self, subscription: Subscription):
        self.subscription, self._message = subscription, None

    def read(self):
        """Return the newest message so far, None before there was one."""
        handle, kind = self.subscription.handle, self.subscription.msg_type
        with handle:
            while (taken := handle.take_message(kind, False)) is not None:
                self._message = taken[0]
        return self._message
