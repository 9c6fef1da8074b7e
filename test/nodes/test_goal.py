"""The ``goal`` verb with real nodes: what is taken, refused, reached and left."""

import json
import shutil
import signal

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.ros


@pytest.fixture
def near_checkpoint(checkpoint, tmp_path):
    """Return a checkpoint by which everything is near everything."""
    folder = shutil.copytree(checkpoint, tmp_path / "near")
    config = json.loads((folder / "config.json").read_text())
    config["thresholds"] |= {"goal_reached": 1e6}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    paths = {}
    for name, pixels in (
        ("a", rng.integers(0, 255, (64, 64, 3))),
        ("b", rng.integers(0, 255, (64, 64, 3))),
        ("black", np.zeros((64, 64, 3))),
    ):
        paths[name] = str(tmp_path / f"{name}.png")
        cv2.imwrite(paths[name], pixels.astype(np.uint8))
    return paths


class Camera:
    """Publishes noise, 20 frames a second."""

    def __init__(self, observer):
        from sensor_msgs.msg import Image

        self.kind, self.node = Image, observer.node
        self.images = observer.node.create_publisher(Image, "camera/image_raw", 5)
        self.rng = np.random.default_rng(1)

    def __call__(self):
        message = self.kind(height=64, width=64, encoding="rgb8", step=192)
        message.data = self.rng.integers(0, 255, 64 * 64 * 3, dtype=np.uint8).tobytes()
        message.header.stamp = self.node.get_clock().now().to_msg()
        self.images.publish(message)


def test_goals_are_sent_one_after_another_and_what_becomes_of_them_is_said(
    processes, near_checkpoint, pictures, observer
):
    camera = Camera(observer)
    elsewhere = processes.start("-m", "world_model_ros", "goal", "--namespace", "left", pictures["a"])
    for node in ("encoder_node", "planner_node"):
        processes.node(node, config=False, checkpoint=near_checkpoint)

    def goal(*words):
        process = processes.start("-m", "world_model_ros", "goal", *words)
        observer.until(lambda: process.poll() is not None, again=camera)
        return process.returncode, process.log.read_text()

    code, text = goal(pictures["a"], pictures["b"], "camera")
    assert code == 0, text
    for line in ("goal 1/3, a.png: taken, planning", "goal 2/3, b.png: taken, planning"):
        assert line in text
    assert "goal 3/3, the camera's view: taken" in text
    assert text.count("reached after") == 3
    assert "threshold 1000000.00)" in text
    code, text = goal(pictures["black"])
    assert code == 1
    assert "goal 1, black.png: refused: the picture is black" in text
    assert "Traceback" not in text
    observer.until(lambda: elsewhere.poll() is not None, again=camera)
    assert elsewhere.returncode == 2
    assert "nobody subscribes to /left/goal/image: start encoder_node" in elsewhere.log.read_text()
    # A list without an end, until somebody ends it.
    process = processes.start("-m", "world_model_ros", "goal", "--loop", pictures["a"], pictures["b"])
    observer.until(lambda: process.log.read_text().count("reached after") >= 3, again=camera)
    process.send_signal(signal.SIGINT)
    observer.until(lambda: process.poll() is not None, again=camera)
    assert process.returncode == 130
    assert "Traceback" not in process.log.read_text()
