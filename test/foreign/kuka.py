"""A robot that shares nothing with those of the package: a KUKA iiwa that its driver calls cell2.

Joints 1 and 4 take velocities in rad/s; the others hold. Two drivers publish the joints of one half of the
arm each, and a webcam above it gives 15 frames a second, a little early or late, in its own yuyv format. All
times are those of the wall clock.

``python test/foreign/kuka.py`` runs it.
"""

import array
import contextlib
import os
import sys
import time
from pathlib import Path

import numpy as np

PREFIX = "cell2_"
NAMES = tuple(f"lbr_iiwa_joint_{i}" for i in range(1, 8))
MOVED = (0, 3)  # joints that the velocity controller has
HOME = (0.0, 0.85, 0.0, -1.3, 0.0, 0.9, 0.0)  # rad
LOW, HIGH = (-0.75, -1.9), (0.75, -0.7)  # rad, the free space of the joints that move
FASTEST = 0.8  # rad/s
ACCELERATION = 6.0  # rad/s2
CONTROLLER_TIMEOUT = 0.25  # s without a command after which the controller stops
PHYSICS, JOINT_RATE, CAMERA_RATE = 240, 40, 15  # Hz
JITTER = 0.012  # s
WIDTH, HEIGHT = 320, 240  # pixels
DRAWN = 2  # pixels of the picture for one that is drawn
TOOL = 6  # index of the link
COMMANDS = "/cell2/velocity_controller/commands"
HALVES = (("lower", range(4)), ("upper", range(4, 7)))


class Kuka:
    """The physics: arm, table, camera."""

    def __init__(self, seed=0, joints=HOME):
        import pybullet
        import pybullet_data

        self.p = p = pybullet
        self.client = p.connect(p.DIRECT)
        p.setTimeStep(1 / PHYSICS, physicsClientId=self.client)
        p.setAdditionalSearchPath(pybullet_data.getDataPath(), physicsClientId=self.client)
        self.arm = p.loadURDF("kuka_iiwa/model.urdf", useFixedBase=True, physicsClientId=self.client)
        table = p.createVisualShape(
            p.GEOM_BOX,
            halfExtents=(1.5, 1.6, 0.01),
            rgbaColor=(0.36, 0.40, 0.34, 1),
            physicsClientId=self.client,
        )
        p.createMultiBody(0, -1, table, (0.5, 0, -0.02), physicsClientId=self.client)
        p.changeVisualShape(self.arm, TOOL, rgbaColor=(0.95, 0.85, 0.1, 1), physicsClientId=self.client)
        self.view = p.computeViewMatrix((0.9, 0.0, 1.85), (0.40, 0.0, 0.25), (1, 0, 0))
        self.projection = p.computeProjectionMatrixFOV(50, WIDTH / HEIGHT, 0.2, 4)
        self.noise = (
            np.random.default_rng(seed)
            .normal(0, 4, (4, HEIGHT // DRAWN, WIDTH // DRAWN, 3))
            .round()
            .astype(np.int16)
        )
        self.frames = 0
        self.velocity = np.zeros(2)  # of the joints that move
        self.place(joints)

    def place(self, joints):
        """Put the arm at rest."""
        self.held = list(joints)
        for i, angle in enumerate(joints):
            self.p.resetJointState(self.arm, i, angle, physicsClientId=self.client)

    def step(self, wanted):
        """Move for one step of the physics; ``wanted`` are velocities of the two joints in rad/s."""
        change = ACCELERATION / PHYSICS
        self.velocity += np.clip(np.clip(wanted, -FASTEST, FASTEST) - self.velocity, -change, change)
        for joint, velocity in zip(MOVED, self.velocity, strict=True):
            self.held[joint] += velocity / PHYSICS
        speeds = np.zeros(7)
        speeds[list(MOVED)] = self.velocity
        self.p.setJointMotorControlArray(
            self.arm,
            range(7),
            self.p.POSITION_CONTROL,
            targetPositions=self.held,
            targetVelocities=speeds.tolist(),
            forces=[300.0] * 7,
            physicsClientId=self.client,
        )
        self.p.stepSimulation(physicsClientId=self.client)

    def joints(self):
        """Return positions (7,) in rad and velocities (7,) in rad/s."""
        states = self.p.getJointStates(self.arm, range(7), physicsClientId=self.client)
        return np.array([s[0] for s in states]), np.array([s[1] for s in states])

    def tool(self):
        """Return where the tool is, (3,) in m."""
        state = self.p.getLinkState(
            self.arm, TOOL, computeForwardKinematics=True, physicsClientId=self.client
        )
        return np.array(state[4])

    def frame(self):
        """Return what the camera sees, yuyv bytes."""
        import cv2

        p = self.p
        _, _, pixels, _, _ = p.getCameraImage(
            WIDTH // DRAWN,
            HEIGHT // DRAWN,
            self.view,
            self.projection,
            shadow=0,
            renderer=p.ER_TINY_RENDERER,
            flags=p.ER_NO_SEGMENTATION_MASK,
            physicsClientId=self.client,
        )
        rgb = np.reshape(pixels, (HEIGHT // DRAWN, WIDTH // DRAWN, 4))[:, :, :3].astype(np.int16)
        self.frames += 1
        noise = np.roll(self.noise[self.frames % 4], 37 * self.frames, axis=1)
        rgb = np.clip(rgb + noise, 0, 255).astype(np.uint8)
        return cv2.cvtColor(cv2.resize(rgb, (WIDTH, HEIGHT)), cv2.COLOR_RGB2YUV_YUY2)

    def close(self):
        """Free the physics."""
        self.p.disconnect(self.client)


def main():
    """Run the robot's drivers until the process is ended."""
    import rclpy
    from geometry_msgs.msg import PointStamped
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image, JointState
    from std_msgs.msg import Float64MultiArray

    with contextlib.suppress(OSError):  # a robot does not share the computer's processors
        os.nice(-10)
        if os.getsid(0) == os.getpid():  # Linux weighs sessions, and within them by nice
            Path("/proc/self/autogroup").write_text("-10")
    rclpy.init()
    kuka, rng = Kuka(), np.random.default_rng(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    executor, nodes = SingleThreadedExecutor(), {}
    for name in ("lower_driver", "upper_driver", "webcam", "velocity_controller"):
        nodes[name] = rclpy.create_node(name, namespace="cell2")
        executor.add_node(nodes[name])
    states = {
        half: nodes[f"{half}_driver"].create_publisher(JointState, f"/cell2/{half}/joint_states", 10)
        for half, _ in HALVES
    }
    camera = nodes["webcam"].create_publisher(Image, "/cell2/webcam/image", qos_profile_sensor_data)
    truth = nodes["lower_driver"].create_publisher(PointStamped, "/truth/tool", 10)  # for the test alone
    command, heard = np.zeros(2), -1e9

    def on_command(message):
        nonlocal command, heard
        if len(message.data) == 2:
            command, heard = np.array(message.data), time.monotonic()

    nodes["velocity_controller"].create_subscription(Float64MultiArray, COMMANDS, on_command, 10)
    offset = time.time_ns() - time.monotonic_ns()

    def stamp(message, at):
        at = round(1e9 * at) + offset
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(at, 10**9)
        return message

    stepped = begin = time.monotonic()  # up to which the physics is done
    next_joints = next_frame = begin
    frame = 0
    try:
        while rclpy.ok():
            executor.spin_once(timeout_sec=max(0.001, min(next_joints, next_frame) - time.monotonic()))
            now = time.monotonic()
            if (lost := now - stepped) > 1.0:  # this process was stopped: the arm stood
                begin, stepped, next_joints, next_frame = (
                    t + lost for t in (begin, stepped, next_joints, next_frame)
                )
            # A busy computer makes this late; the stamps are those of drivers that are not.
            while stepped + 1 / PHYSICS <= now:
                stepped += 1 / PHYSICS
                kuka.step(command if stepped - heard < CONTROLLER_TIMEOUT else np.zeros(2))
                if stepped >= next_joints:
                    next_joints += 1 / JOINT_RATE
                    positions, velocities = kuka.joints()
                    for half, part in HALVES:
                        message = JointState(name=[PREFIX + NAMES[i] for i in part])
                        message.position, message.velocity = (
                            positions[part].tolist(),
                            velocities[part].tolist(),
                        )
                        states[half].publish(stamp(message, stepped))
                    message = PointStamped()
                    message.point.x, message.point.y, message.point.z = kuka.tool().tolist()
                    truth.publish(stamp(message, stepped))
                if stepped >= next_frame:
                    image = Image(width=WIDTH, height=HEIGHT, encoding="yuv422_yuy2", step=2 * WIDTH)
                    image._data = array.array("B", kuka.frame().tobytes())
                    image.header.frame_id = "webcam"
                    camera.publish(stamp(image, stepped))
                    frame += 1
                    next_frame = begin + frame / CAMERA_RATE + rng.uniform(-JITTER, JITTER)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass


if __name__ == "__main__":
    main()
