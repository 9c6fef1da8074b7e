"""Rows of the fault table that encoder_node answers for, on a real node."""

import json
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from test.observer import said
from test.processes import without_processor
from world_model_ros.nodes import environment

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
    observer.until(lambda: "frozen" in said(health), again=lambda: camera.shoot(pixels=frozen))
    assert {v.key: v.value for v in health[-1].values}["asks_for"] == "hold"
    stamps = observer.repeat(lambda: camera.shoot(pixels=frozen), 20)
    observer.until(lambda: said(health) == "fine", again=camera.shoot)
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
        {"step": 1, "data": b"\0" * 100},
        {"encoding": "nv24"},
        {"encoding": "mono16", "data": b"\1\0" * 64 * 48, "step": 128},
        {"encoding": ""},
        {"height": 0, "data": b""},
        {"height": 2**31, "data": b"\0"},
    )

    def messages():
        return encoder.log.read_text().count("was rejected")

    def noise():  # the same picture again would be a frozen camera's
        return camera.rng.integers(0, 256, (48, 64, 3), np.uint8)

    stamps = []
    for fields in broken:
        before = messages()
        observer.until(
            lambda before=before: messages() > before,
            again=lambda fields=fields: stamps.append(camera.shoot(pixels=noise(), **fields)),
        )
        observer.until(lambda: max(camera.stamps()) > stamps[-1], again=camera.shoot)
    assert not set(stamps) & set(camera.stamps())
    assert "Traceback" not in encoder.log.read_text()
    assert encoder.poll() is None


def test_fault_05_a_driver_that_sets_no_step_and_a_flag_and_sends_yuyv_is_understood(
    processes, checkpoint, camera, observer
):
    start(processes, checkpoint)
    shot = []

    def shoot():
        data = camera.rng.integers(0, 256, 64 * 48 * 2, np.uint8).tobytes()
        shot.append(camera.shoot(encoding="yuv422_yuy2", step=0, is_bigendian=1, data=data))

    observer.until(lambda: set(shot) & set(camera.stamps()), again=shoot)


def test_fault_43_a_depth_topic_is_refused_as_that_and_not_counted_as_used(
    processes, checkpoint, observer, ask
):
    import cv2
    from sensor_msgs.msg import CompressedImage

    node = start(processes, checkpoint, compressed="true")
    out = observer.node.create_publisher(CompressedImage, "camera/image_raw/compressed", 1)
    depth = cv2.imencode(".png", np.arange(48 * 64, dtype=np.uint16).reshape(48, 64))[1]
    sent = [0]

    def shoot():
        sent[0] += 1
        message = CompressedImage(
            format="16UC1; png compressed ", data=depth.tobytes() + bytes([sent[0] % 256])
        )
        message.header.stamp = observer.node.get_clock().now().to_msg()
        out.publish(message)

    words = (
        "/camera/image_raw/compressed: no frame can be used: it is a PNG of 16-bit values: this is a depth"
    )
    observer.until(lambda: ask.diagnosed("encoder_node", words), again=shoot)
    level, _, values = ask.diagnosis("encoder_node")
    assert level == b"\x01"
    assert values["frames_used"] == "0"
    assert int(values["frames_rejected"]) > 0
    assert node.log.read_text().count("this is a depth topic") == 1


def test_fault_46_a_camera_that_does_not_stamp_is_used_by_the_time_of_arrival(
    processes, checkpoint, camera, observer, ask
):
    node = start(processes, checkpoint, image_stamp="received")
    began = observer.node.get_clock().now().nanoseconds
    observer.until(lambda: len(camera.latents) > 3, again=lambda: camera.shoot(stamp=0))
    stamps = camera.stamps()
    assert stamps == sorted(set(stamps))
    assert began < stamps[0] <= stamps[-1] <= observer.node.get_clock().now().nanoseconds
    assert "dropped" not in node.log.read_text()


def test_fault_56_another_light_than_in_training_is_named_with_numbers_and_logged_once(
    processes, checkpoint, camera, observer, ask, tmp_path
):
    folder = tmp_path / "lit"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    thirds = [1 / 3] * 3
    config["light"] = {"low": [98.0, *thirds], "mean": [118.0, *thirds], "high": [130.0, *thirds]}
    (folder / "config.json").write_text(json.dumps(config))
    node = start(processes, folder)

    def shoot(brightness):
        pixels = camera.rng.integers(brightness - 5, brightness + 6, (48, 64, 1), np.uint8).repeat(3, 2)
        camera.shoot(pixels=pixels)

    words = "the picture is 40 % darker than in training (mean 71, 98 to 130)"
    observer.until(lambda: ask.diagnosed("encoder_node", words), again=lambda: shoot(71))
    level, _, values = ask.diagnosis("encoder_node")
    assert level == b"\x01"
    assert values["picture_brightness"] == "71"
    observer.until(lambda: ask.diagnosed("encoder_node", "fine"), again=lambda: shoot(118))
    lines = [line for line in node.log.read_text().splitlines() if "WARN" in line]  # again after a pause
    assert not any("darker" in a and "darker" in b for a, b in zip(lines, lines[1:], strict=False))


def test_fault_30_topics_that_do_have_images_are_offered_by_their_full_names(
    processes, checkpoint, observer, ask
):
    from diagnostic_msgs.msg import DiagnosticStatus
    from sensor_msgs.msg import CompressedImage, Image

    beats = observer.collect(DiagnosticStatus, "encoder_node/health")
    start(processes, checkpoint)
    observer.until(lambda: ask.diagnosed("encoder_node", "no image yet: nobody publishes /camera/image_raw"))
    other = observer.node.create_publisher(CompressedImage, "front/image_raw/compressed", 1)
    words = "images of the other kind are on /front/image_raw/compressed: set compressed to true"
    observer.until(lambda: ask.diagnosed("encoder_node", words))
    observer.node.create_publisher(Image, "front/image_raw", 1)
    words = "nobody publishes /camera/image_raw, images are on /front/image_raw: remap /camera/image_raw"
    observer.until(lambda: ask.diagnosed("encoder_node", words))
    # The status of command_node has it from here.
    observer.until(lambda: any(words in pair.value for beat in beats[-1:] for pair in beat.values))
    assert other.get_subscription_count() == 0


def test_fault_08_black_pictures_are_a_warning(encoder, camera, observer, ask):
    black = np.zeros((48, 64, 3), np.uint8)
    observer.until(lambda: ask.diagnosed("encoder_node", "black"), again=lambda: camera.shoot(pixels=black))
    assert ask.diagnosis("encoder_node")[0] == b"\x01"
    observer.until(lambda: ask.diagnosis("encoder_node")[0] == b"\x00", again=camera.shoot)


def test_fault_09_late_and_future_frames_are_dropped_and_counted(encoder, camera, observer, ask):
    def metrics():
        return ask.diagnosis("encoder_node")[2]

    wrong = []
    for count, offset in (("frames_future", 5.0), ("frames_repeated", -5.0)):
        observer.until(
            lambda count=count: int(metrics().get(count, 0)) > 2,
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
        robot.publish_joints()
        robot.publish_plan()

    flood = processes.start("-c", FLOOD)
    observer.until(robot.moving, again=alive)
    before, first = resident(), len(robot.executed)
    waited = without_processor(command.pid)
    observer.until(lambda: len(robot.executed) > first + 200, again=alive)
    waited = 1e3 * (without_processor(command.pid) - waited) / 200
    stamps = [m.header.stamp.sec + 1e-9 * m.header.stamp.nanosec for m in robot.executed[first:]]
    periods = 1e3 * np.diff(stamps)
    observer.until(lambda: "camera_hz" in ask.diagnosis("encoder_node")[2], again=alive)
    values = ask.diagnosis("encoder_node")[2]
    print(
        f"command period p50 {np.median(periods):.1f} ms, p99 {np.percentile(periods, 99):.1f} ms; "
        f"camera {values['camera_hz']} Hz, memory grew by {resident() - before:.1f} MB"
    )
    assert int(values["frames_too_many"]) > int(values["frames_used"])
    assert resident() - before < 20
    assert 45 < np.median(periods) < 55 + waited
    observer.until(robot.moving, again=alive)
    assert flood.poll() is None


def test_a_camera_whose_frames_get_lost_is_named_with_the_remedy(processes, checkpoint, observer, ask):
    """640 x 480 at 30 Hz from a process without the profile: Fast DDS loses most of it."""
    processes.use_shared_memory()
    node = start(processes, checkpoint)
    camera = processes.start("-c", DROPPING_CAMERA)
    observer.until(lambda: ask.diagnosed("encoder_node", "get lost on the way"))
    assert "/dropping_camera" in ask.diagnosis("encoder_node")[1]
    assert ask.diagnosis("encoder_node")[0] == b"\x01"
    log = node.log.read_text()
    assert log.count("get lost on the way") == 1
    remedy = f"start the camera with {environment.profile_variable()}"
    assert f"from /dropping_camera get lost on the way: {remedy}" in log
    assert camera.poll() is None


DROPPING_CAMERA = """
import array, os, sys, time
os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] = ""
for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
    os.environ.pop(name, None)
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("dropping_camera")
out = node.create_publisher(Image, "camera/image_raw", qos_profile_sensor_data)
message = Image(height=480, width=640, encoding="rgb8", step=1920)
def shoot():
    message.header.stamp = node.get_clock().now().to_msg()
    message.data = array.array("B", os.urandom(1920) * 480)
    out.publish(message)
node.create_timer(1 / 30, shoot)
rclpy.spin(node)
"""


GOOD_CAMERA = DROPPING_CAMERA.replace(
    'for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):\n'
    "    os.environ.pop(name, None)\n",
    "os.environ.pop(name := 'FASTDDS_DEFAULT_PROFILES_FILE')\n"
    "from world_model_ros.nodes import environment\n"
    "environment.prepare()\n",
)


def test_a_large_camera_with_the_profile_arrives(processes, checkpoint, observer, ask):
    processes.use_shared_memory()
    start(processes, checkpoint)
    camera = processes.start("-c", GOOD_CAMERA)

    def metric(name):
        return float(ask.diagnosis("encoder_node")[2].get(name, 0))

    observer.until(lambda: metric("frames_used") > 90)
    came = sum(metric(f"frames_{kind}") for kind in ("used", "too_many", "late"))
    print(f"640 x 480 at 30 Hz: {came:.0f} came, {metric('frames_lost'):.0f} lost, {metric('camera_hz')} Hz")
    assert metric("frames_lost") <= 0.05 * came
    assert camera.poll() is None


class Goals:
    """Goal images of the test, and the latents that come of them."""

    def __init__(self, observer):
        from sensor_msgs.msg import Image

        self.observer = observer
        self.latents = observer.collect(Image, "goal/latent")
        self.out = observer.node.create_publisher(Image, "goal/image", 1)

    def send(self, stamp, pixels):
        from sensor_msgs.msg import Image

        height, width, _ = pixels.shape
        message = Image(height=height, width=width, encoding="rgb8", step=3 * width, data=pixels.tobytes())
        message.header.stamp.sec = stamp
        self.out.publish(message)

    def begin(self):
        self.observer.until(lambda: self.out.get_subscription_count() > 0)
        self.observer.until(lambda: self.observer.node.count_publishers("goal/latent") > 0)

    def stamps(self):
        return [message.header.stamp.sec for message in self.latents]


def noise(seed):
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)


def test_fault_45_goals_that_show_nothing_are_refused_and_named(processes, checkpoint, observer, ask):
    goals, node = Goals(observer), start(processes, checkpoint)
    goals.begin()
    for stamp, value, expected in ((1, 0, "the picture is black"), (2, 255, "the picture is white all over")):
        goals.send(stamp, np.full((48, 64, 3), value, np.uint8))
        observer.until(lambda text=expected: f"goal/image was rejected: {text}" in node.log.read_text())
    camera = Camera(observer)  # so that the goal is all there is to report
    observer.until(
        lambda: ask.diagnosed("encoder_node", "goal on /goal/image was refused: the picture is white"),
        again=camera.shoot,
    )
    assert ask.diagnosis("encoder_node")[0] == b"\x01"
    goals.send(3, noise(3))
    observer.until(lambda: goals.latents)
    observer.until(lambda: ask.diagnosed("encoder_node", "fine"), again=camera.shoot)
    assert goals.stamps() == [3]


def test_fault_45_a_goal_out_of_the_latent_norm_range_is_refused_and_named(
    processes, checkpoint, observer, tmp_path
):
    folder = tmp_path / "narrow"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config["thresholds"] = config.get("thresholds", {}) | {"norm_low": 1e6, "norm_high": 2e6}
    (folder / "config.json").write_text(json.dumps(config))
    goals, node = Goals(observer), start(processes, folder)
    goals.begin()
    goals.send(1, noise(1))
    observer.until(lambda: "800000.0 to 2200000.0 is usual" in node.log.read_text())
    assert "goal/image was rejected: the picture is like none seen in training" in node.log.read_text()
    assert not goals.latents


def test_fault_45_a_goal_of_one_colour_is_refused_and_named(processes, checkpoint, observer):
    goals, node = Goals(observer), start(processes, checkpoint)
    goals.begin()
    goals.send(1, np.full_like(noise(1), 128))
    observer.until(lambda: "it has one colour everywhere" in node.log.read_text())
    assert not goals.latents


COUNTING = """
import sys
sys.argv = ["encoder_node", "--ros-args", "-p", "checkpoint:=%s"]
from world_model_ros.nodes import environment
environment.prepare()
from world_model_ros.nodes import encoder_node, running
real = encoder_node.EncoderNode.embed
def embed(self, pixels):
    print("embedded once", flush=True)
    return real(self, pixels)
encoder_node.EncoderNode.embed = embed
running.run(encoder_node.make_node)
"""


def test_fault_58_the_same_goal_picture_again_has_the_same_latent_without_being_perceived_again(
    processes, checkpoint, observer
):
    node = processes.start("-c", COUNTING % checkpoint)
    goals = Goals(observer)
    goals.begin()
    for stamp, seed in enumerate((7, 7, 7, 8, 7), 1):
        goals.send(stamp, noise(seed))
        observer.until(lambda stamp=stamp: goals.stamps()[-1:] == [stamp])
    one, two, three, other, back = (bytes(message.data) for message in goals.latents)
    assert goals.stamps() == [1, 2, 3, 4, 5]  # whether it changes anything is the planner's to decide
    assert one == two == three == back != other
    assert node.log.read_text().count("embedded once") == 1 + 3  # and once to warm up


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"stamp": 0}, "the driver does not stamp its images"),
        ({"stamp": 1234 * SECOND}, "counts from when the camera or its computer was started"),
        ({"offset": -60.0}, "synchronise the clocks"),
        ({"encoding": "16UC1"}, "its encoding is '16UC1'"),
    ],
    ids=["zero", "uptime", "apart", "encoding"],
)
def test_fault_09_a_camera_whose_frames_are_all_of_no_use_is_a_warning_with_the_cause(
    processes, checkpoint, camera, observer, ask, fields, expected
):
    from diagnostic_msgs.msg import DiagnosticStatus

    health = observer.collect(DiagnosticStatus, "encoder_node/health")
    node = start(processes, checkpoint)

    def shoot():
        camera.shoot(**fields)

    words = "camera/image_raw: no frame can be used: "
    observer.until(
        lambda: ask.diagnosed("encoder_node", expected) and ask.diagnosed("encoder_node", words), again=shoot
    )
    assert ask.diagnosis("encoder_node")[0] == b"\x01"
    assert int(ask.diagnosis("encoder_node")[2]["frames_used"]) == 0
    observer.until(lambda: expected in said(health), again=shoot)
    assert node.log.read_text().count(expected) == 1
    observer.until(lambda: ask.diagnosis("encoder_node")[0] == b"\x00", again=camera.shoot)


def test_fault_03_a_frozen_camera_keeps_its_cause_and_one_that_stops_says_that(
    processes, checkpoint, camera, observer
):
    from diagnostic_msgs.msg import DiagnosticStatus

    health = observer.collect(DiagnosticStatus, "encoder_node/health", 1000)
    start(processes, checkpoint, frozen_after=0.3)
    observer.until(lambda: camera.latents, again=camera.shoot)
    frozen = noise(1)

    def shoot():
        camera.shoot(pixels=frozen)

    observer.until(lambda: "frozen" in said(health), again=shoot)
    first = len(health)
    observer.until(lambda: len(health) > first + 30, again=shoot)
    # Where the machine is so busy that no frame came for a second, that is true too.
    reasons = {message.message for message in health[first:]}
    reasons = {reason for reason in reasons if not reason.startswith("/camera/image_raw: no frame")}
    assert reasons
    assert all("frozen" in reason for reason in reasons)
    observer.until(lambda: said(health) == "/camera/image_raw: no frame for more than 1 s")
    assert {v.key: v.value for v in health[-1].values}["asks_for"] == "go_on"  # missed by the frames' age
    observer.until(lambda: said(health) == "fine", again=camera.shoot)
