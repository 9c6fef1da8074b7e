"""A robot that shares nothing with those of the package: a KUKA iiwa that its driver calls cell2.

Joints 1 and 4 take velocities in rad/s; the others hold. Two drivers publish the joints of one half of the
arm each, and a webcam above it gives 15 frames a second, a little early or late, in its own yuyv format. Its
/clock runs as fast as real time, or slower where the computer is too busy.

``python test/foreign/kuka.py`` runs it.
"""

import array
import contextlib
import sys
import threading
import time

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
BEGIN = 1000.0  # s, of the clock
CLOCK_STEPS = 4  # of the physics, from one message on /clock to the next
LATE = 0.03  # s by which the clock may be behind real time before it is slowed down
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
    from rclpy._rclpy_pybind11 import RCLError
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.qos import qos_profile_sensor_data
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import Image, JointState
    from std_msgs.msg import Float64MultiArray

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
    clock = nodes["lower_driver"].create_publisher(Clock, "/clock", 10)
    command, heard = np.zeros(2), 0.0
    now = BEGIN  # s, of this clock: up to which the physics is done

    def on_command(message):
        nonlocal command, heard
        if len(message.data) == 2:
            command, heard = np.array(message.data), now

    nodes["velocity_controller"].create_subscription(Float64MultiArray, COMMANDS, on_command, 10)

    def set_time(stamp):
        stamp.sec, stamp.nanosec = divmod(round(1e9 * now), 10**9)

    def publish_joints():
        positions, velocities = kuka.joints()
        for half, part in HALVES:
            message = JointState(name=[PREFIX + NAMES[i] for i in part])
            message.position, message.velocity = positions[part].tolist(), velocities[part].tolist()
            set_time(message.header.stamp)
            states[half].publish(message)
        message = PointStamped()
        message.point.x, message.point.y, message.point.z = kuka.tool().tolist()
        truth.publish(message)

    def publish_frame():
        image = Image(width=WIDTH, height=HEIGHT, encoding="yuv422_yuy2", step=2 * WIDTH)
        image._data = array.array("B", kuka.frame().tobytes())
        image.header.frame_id = "webcam"
        set_time(image.header.stamp)
        camera.publish(image)

    threading.Thread(target=executor.spin, daemon=True).start()
    origin = time.monotonic() - now
    next_joints = next_frame = now
    steps = frames = 0
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException, RCLError):  # how it is ended
        while rclpy.ok():
            time.sleep(max(0.001, min(next_joints, next_frame) + origin - time.monotonic()))
            late = time.monotonic() - origin - now
            origin += max(0.0, late - LATE)
            while now + 1 / PHYSICS <= time.monotonic() - origin:
                steps += 1
                now = BEGIN + steps / PHYSICS
                kuka.step(command if now - heard < CONTROLLER_TIMEOUT else np.zeros(2))
                if steps % CLOCK_STEPS == 0:
                    message = Clock()
                    set_time(message.clock)
                    clock.publish(message)
                if now >= next_joints:
                    next_joints += 1 / JOINT_RATE
                    publish_joints()
                if now >= next_frame:
                    publish_frame()
                    frames += 1
                    next_frame = BEGIN + frames / CAMERA_RATE + rng.uniform(-JITTER, JITTER)


if __name__ == "__main__":
    main()
