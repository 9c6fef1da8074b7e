"""The person who teleoperates the foreign robot, and records: a script in the person's place.

It looks at the joint states, moves a joystick (Float64MultiArray, 20 Hz) from one place to another with
pauses, and calls the services of the recorder. ``python test/foreign/teleop.py EPISODES SECONDS SEED``;
with 0 episodes it moves the robot for so many seconds and records nothing.
"""

import sys

import numpy as np
from kuka import COMMANDS, FASTEST, HIGH, LOW, MOVED, NAMES, PREFIX

RATE = 20  # Hz, of the joystick
ASK_AGAIN = 20.0  # s without a service's answer
IDLE = 1.2  # s at the start and at the end of an episode
WATCHED = [PREFIX + NAMES[i] for i in MOVED]


class Hand:
    """Where the joystick is: changes what it does every short while."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.until, self.manner = 0.0, "rest"
        self.shake = np.zeros(2)

    def choose(self, at, now):
        """Take up something else."""
        rng = self.rng
        self.manner = rng.choice(["go", "wander", "hold", "pause"], p=[0.5, 0.2, 0.2, 0.1])
        self.until = now + rng.uniform(0.4, 1.0 if self.manner == "pause" else 2.0)
        self.target = rng.uniform(LOW, HIGH)
        self.speed = rng.uniform(0.2, 1.0) * FASTEST
        self.constant = rng.uniform(-1, 1, 2) * FASTEST
        if rng.random() < 0.4:
            self.constant[rng.integers(2)] = 0.0

    def velocities(self, at, now):
        """Return the joystick's (2,) in rad/s for joints at (2,)."""
        if now >= self.until:
            self.choose(at, now)
        self.shake = 0.9 * self.shake + 0.44 * self.rng.normal(size=2)
        if self.manner == "pause":
            return np.zeros(2)
        if self.manner == "go":
            way = self.target - at
            if np.abs(way).max() < 0.04:
                self.until = now
            wanted = np.clip(3 * way, -self.speed, self.speed)
        else:
            wanted = self.constant if self.manner == "hold" else 0.35 * self.shake
        ahead = at + 0.25 * wanted
        wanted = np.where((ahead < LOW) & (wanted < 0) | (ahead > HIGH) & (wanted > 0), -wanted, wanted)
        return np.clip(wanted, -FASTEST, FASTEST)


def main(episodes, seconds, seed):
    """Record episodes of so many seconds, idle at the start and at the end."""
    import rclpy
    from rclpy.parameter import Parameter
    from sensor_msgs.msg import JointState
    from std_msgs.msg import Float64MultiArray
    from std_srvs.srv import Trigger

    rclpy.init()
    node = rclpy.create_node("operator", parameter_overrides=[Parameter("use_sim_time", value=True)])

    def time():
        return 1e-9 * node.get_clock().now().nanoseconds

    while not time():
        rclpy.spin_once(node)
    stick, hand, measured = node.create_publisher(Float64MultiArray, COMMANDS, 10), Hand(seed), {}

    def on_joints(message):
        measured.update(zip(message.name, message.position, strict=True))

    for half in ("lower", "upper"):
        node.create_subscription(JointState, f"/cell2/{half}/joint_states", on_joints, 10)

    due = time()

    def act(moving):
        nonlocal due
        at = np.array([measured[name] for name in WATCHED])
        velocities = hand.velocities(at, time()) if moving else np.zeros(2)
        stick.publish(Float64MultiArray(data=velocities.tolist()))
        due = max(due + 1 / RATE, time())
        while time() < due:
            rclpy.spin_once(node)

    def call(name):
        client = node.create_client(Trigger, f"recorder/{name}")
        while not client.service_is_ready():
            act(moving=False)
        asked, due_again = [], 0.0
        while not any(future.done() for future in asked):
            if time() > due_again:  # the first answer of a server can be lost
                asked.append(client.call_async(Trigger.Request()))
                due_again = time() + ASK_AGAIN
            act(moving=False)
        node.destroy_client(client)
        return next(future for future in asked if future.done()).result()

    while len(measured) < len(NAMES):
        rclpy.spin_once(node)
    before = dict(measured)
    while max(abs(measured[name] - before[name]) for name in WATCHED) < 0.02:
        act(moving=True)  # until the arm follows
    done = 0
    while done < max(episodes, 1):
        while episodes and not (answer := call("start")).success:
            print(answer.message, flush=True)
            for _ in range(RATE // 2):
                act(moving=False)
        begin = time()
        while (passed := time() - begin) < seconds:
            act(moving=not episodes or IDLE < passed < seconds - IDLE)
        told = call("success").message if episodes else ""
        print(f"{done + 1}/{episodes}: {told}", flush=True)
        # Where a stream fell silent the recorder has ended the episode before: it is recorded again.
        done += not episodes or "read back" in told
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
