"""Rows of the fault table that encoder_node answers for, on a real node."""

import resource
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.ros, pytest.mark.fault]
SECOND = 1_000_000_000


class Camera:
    """A camera of the test: every frame has noise of its own and is stamped with now."""

    def __init__(self, observer):
        from sensor_msgs.msg import Image

        self.node = observer.node
        self.out = self.node.create_publisher(Image, "camera/image_raw", 1)
        self.latents = observer.collect(Image, "latent", 1000)
        self.rng = np.random.default_rng(0)

    def shoot(self, height=48, width=64, offset=0.0, stamp=None, pixels=None, **fields):
        from sensor_msgs.msg import Image

        if pixels is None:
            pixels = self.rng.integers(0, 256, (height, width, 3), np.uint8)
        fields = {"encoding": "rgb8", "step": 3 * width, "data": pixels.tobytes()} | fields
        message = Image(height=height, width=width, **fields)
        if stamp is None:
            stamp = self.node.get_clock().now().nanoseconds + round(offset * SECOND)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, SECOND)
        self.out.publish(message)
        return stamp

    def stamps(self):
        return [m.header.stamp.sec * SECOND + m.header.stamp.nanosec for m in self.latents]


@pytest.fixture
def camera(observer):
    return Camera(observer)


def start(processes, checkpoint, **parameters):
    return processes.node("encoder_node", config=False, checkpoint=checkpoint, **parameters)


@pytest.fixture
def encoder(processes, checkpoint, camera, observer):
    node = start(processes, checkpoint)
    observer.until(lambda: camera.latents, again=camera.shoot)
    return node


def test_fault_03_a_frozen_camera_is_named_and_asks_for_a_standstill(
    processes, checkpoint, camera, observer, ask
):
    from diagnostic_msgs.msg import DiagnosticStatus

    health = observer.collect(DiagnosticStatus, "encoder_node/health")
    start(processes, checkpoint, frozen_after=0.5)
    frozen = np.full((48, 64, 3), 90, np.uint8)
    observer.until(lambda: camera.latents, again=camera.shoot)
    observer.until(
        lambda: health and "frozen" in health[-1].message, again=lambda: camera.shoot(pixels=frozen)
    )
    assert {v.key: v.value for v in health[-1].values}["asks_for"] == "hold"
    stamps = observer.repeat(lambda: camera.shoot(pixels=frozen), 20)
    observer.until(lambda: health[-1].message == "fine", again=camera.shoot)
    # One that was perceived shows that those before it were not.
    observer.until(lambda: max(camera.stamps()) > stamps[-1], again=camera.shoot)
    assert not set(stamps) & set(camera.stamps())


def test_fault_04_a_stamp_that_is_repeated_is_no_new_frame(encoder, camera, observer, ask):
    stamp = camera.stamps()[-1]
    observer.until(
        lambda: int(ask.diagnosis("encoder_node")[2].get("frames_repeated", 0)) > 3,
        again=lambda: camera.shoot(stamp=stamp),
    )
    assert camera.stamps().count(stamp) == 1


def test_fault_06_another_shape_mid_run_is_rejected_another_resolution_is_not(encoder, camera, observer):
    larger, square = [], []
    observer.until(
        lambda: set(larger) & set(camera.stamps()), again=lambda: larger.append(camera.shoot(96, 128))
    )
    observer.until(
        lambda: "the camera began with" in encoder.log.read_text(),
        again=lambda: square.append(camera.shoot(64, 64)),
    )
    observer.until(lambda: max(camera.stamps()) > square[-1], again=camera.shoot)
    assert not set(square) & set(camera.stamps())


def test_fault_07_images_that_cannot_be_are_rejected_without_an_exception(encoder, camera, observer):
    broken = (
        {"data": b""},
        {"data": b"\0" * 100},
        {"step": 1},
        {"is_bigendian": 1},
        {"encoding": "yuv422"},
        {"encoding": ""},
        {"height": 0, "data": b""},
        {"height": 2**31, "data": b"\0"},
    )

    def said():
        return encoder.log.read_text().count("was rejected")

    def noise():  # the same picture again would be a frozen camera's
        return camera.rng.integers(0, 256, (48, 64, 3), np.uint8)

    stamps = []
    for fields in broken:
        before = said()
        observer.until(
            lambda before=before: said() > before,
            again=lambda fields=fields: stamps.append(camera.shoot(pixels=noise(), **fields)),
        )
        observer.until(lambda: max(camera.stamps()) > stamps[-1], again=camera.shoot)
    assert not set(stamps) & set(camera.stamps())
    assert "Traceback" not in encoder.log.read_text()
    assert encoder.poll() is None


def test_fault_08_black_pictures_are_a_warning(encoder, camera, observer, ask):
    black = np.zeros((48, 64, 3), np.uint8)
    observer.until(lambda: ask.says("encoder_node", "black"), again=lambda: camera.shoot(pixels=black))
    assert ask.diagnosis("encoder_node")[0] == b"\x01"
    observer.until(lambda: ask.diagnosis("encoder_node")[0] == b"\x00", again=camera.shoot)


def test_fault_09_late_and_future_frames_are_dropped_and_counted(encoder, camera, observer, ask):
    def figures():
        return ask.diagnosis("encoder_node")[2]

    wrong = []
    for count, offset in (("frames_future", 5.0), ("frames_repeated", -5.0)):
        observer.until(
            lambda count=count: int(figures().get(count, 0)) > 2,
            again=lambda offset=offset: wrong.append(camera.shoot(offset=offset)),
        )
    now = camera.shoot()
    observer.until(lambda: max(camera.stamps()) >= now, again=camera.shoot)
    assert not set(wrong) & set(camera.stamps())
    assert "ahead of this node's clock" in encoder.log.read_text()


FLOOD = """
import array, os, time
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("flood")
out = node.create_publisher(Image, "camera/image_raw", qos_profile_sensor_data)
message = Image(height=96, width=96, encoding="rgb8", step=288)
due = time.monotonic()
while True:
    message.header.stamp = node.get_clock().now().to_msg()
    message.data = array.array("B", os.urandom(288) * 96)
    out.publish(message)
    due = max(due + 1e-3, time.monotonic() - 0.1)
    time.sleep(max(0.0, due - time.monotonic()))
"""


def test_fault_30_a_thousand_images_a_second_disturb_neither_memory_nor_commands(
    processes, checkpoint, robot, observer, ask
):
    encoder = start(processes, checkpoint, max_rate=30.0)
    command = processes.node("command_node", config=False, checkpoint=checkpoint)

    def resident():
        pages = [int(Path(f"/proc/{p.pid}/statm").read_text().split()[1]) for p in (encoder, command)]
        return sum(pages) * resource.getpagesize() / 1e6

    def alive():  # the latents are the encoder's own
        robot.say_joints()
        robot.say_plan()

    flood = processes.start("-c", FLOOD)
    observer.until(robot.moving, again=alive)
    before, first = resident(), len(robot.executed)
    observer.until(lambda: len(robot.executed) > first + 200, again=alive)
    stamps = [m.header.stamp.sec + 1e-9 * m.header.stamp.nanosec for m in robot.executed[first:]]
    periods = 1e3 * np.diff(stamps)
    observer.until(lambda: "camera_hz" in ask.diagnosis("encoder_node")[2], again=alive)
    figures = ask.diagnosis("encoder_node")[2]
    print(
        f"command period p50 {np.median(periods):.1f} ms, p99 {np.percentile(periods, 99):.1f} ms; "
        f"camera {figures['camera_hz']} Hz, memory grew by {resident() - before:.1f} MB"
    )
    assert int(figures["frames_too_many"]) > int(figures["frames_used"])
    assert resident() - before < 20
    assert 45 < np.median(periods) < 55
    observer.until(robot.moving, again=alive)
    assert flood.poll() is None


def test_a_camera_whose_frames_get_lost_is_named_with_the_remedy(processes, checkpoint, observer, ask):
    """640 x 480 at 30 Hz from a process without the profile: Fast DDS loses most of it."""
    start(processes, checkpoint)
    camera = processes.start("-c", LOSSY_CAMERA)
    observer.until(lambda: ask.says("encoder_node", "fastdds.xml"))
    assert "/lossy_camera" in ask.diagnosis("encoder_node")[1]
    assert ask.diagnosis("encoder_node")[0] == b"\x01"
    assert camera.poll() is None


LOSSY_CAMERA = """
import array, os, sys, time
os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] = ""
for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
    os.environ.pop(name, None)
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("lossy_camera")
out = node.create_publisher(Image, "camera/image_raw", qos_profile_sensor_data)
message = Image(height=480, width=640, encoding="rgb8", step=1920)
def shoot():
    message.header.stamp = node.get_clock().now().to_msg()
    message.data = array.array("B", os.urandom(1920) * 480)
    out.publish(message)
node.create_timer(1 / 30, shoot)
rclpy.spin(node)
"""


GOOD_CAMERA = LOSSY_CAMERA.replace(
    'for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):\n'
    "    os.environ.pop(name, None)\n",
    "os.environ.pop(name := 'FASTDDS_DEFAULT_PROFILES_FILE')\n"
    "from world_model_ros.nodes import environment\n"
    "environment.prepare()\n",
)


def test_a_large_camera_with_the_profile_arrives(processes, checkpoint, observer, ask):
    start(processes, checkpoint)
    camera = processes.start("-c", GOOD_CAMERA)

    def figure(name):
        return float(ask.diagnosis("encoder_node")[2].get(name, 0))

    observer.until(lambda: figure("frames_used") > 90)
    came = sum(figure(f"frames_{kind}") for kind in ("used", "too_many", "late"))
    print(f"640 x 480 at 30 Hz: {came:.0f} came, {figure('frames_lost'):.0f} lost, {figure('camera_hz')} Hz")
    assert figure("frames_lost") <= 0.05 * came
    assert camera.poll() is None
