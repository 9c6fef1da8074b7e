"""LeRobot's own writer and reader on the other side, where `lerobot` is installed (it is no requirement)."""

import os

import numpy as np
import pytest

from world_model_ros.cli import main
from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.data.export import export_lerobot

os.environ.setdefault("HF_HUB_OFFLINE", "1")
lerobot = pytest.importorskip("lerobot.datasets.lerobot_dataset", exc_type=ImportError)

LENGTHS = (12, 20, 9)
CAMERA = "observation.images.front"


def record(folder, video):
    """Let LeRobot write a data set; return its frames, states and actions."""
    features = {
        CAMERA: {"dtype": "video" if video else "image", "shape": (64, 64, 3), "names": ["h", "w", "c"]},
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["j1", "j2", "j3"]},
        "action": {"dtype": "float32", "shape": (2,), "names": ["linear_x", "linear_y"]},
    }
    dataset = lerobot.LeRobotDataset.create(
        "me/set", fps=20, root=folder, features=features, use_videos=video, robot_type="test"
    )
    rng, steps = np.random.default_rng(0), []
    for length in LENGTHS:
        for _ in range(length):
            pixels = np.full((64, 64, 3), rng.integers(0, 255, 3), np.uint8)
            if not video:
                pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            state, action = (rng.normal(size=n).astype(np.float32) for n in (3, 2))
            dataset.add_frame({CAMERA: pixels, "observation.state": state, "action": action, "task": "push"})
            steps.append((pixels, state, action))
        dataset.save_episode()
    dataset.finalize()
    return [np.stack(column) for column in zip(*steps, strict=True)]


@pytest.mark.parametrize("video", [False, True])
def test_what_lerobot_writes_is_converted_and_read_by_lerobot_again(tmp_path, video):
    pixels, states, actions = record(tmp_path / "set", video)
    words = ["convert", str(tmp_path / "set"), "--out", str(tmp_path / "set.h5"), "--block", "5"]
    assert main([*words, "--action-kind", "twist", "--action-unit", "m/s"]) == 0
    with EpisodeFile(tmp_path / "set.h5") as file:
        assert tuple(file.lengths) == LENGTHS
        assert file.attributes["period"] == 0.05
        assert file.attributes["action_names"] == ["linear_x", "linear_y"]
        ends = np.cumsum(LENGTHS)
        for episode, (end, length) in enumerate(zip(ends, LENGTHS, strict=True)):
            rows = slice(end - length, end)
            np.testing.assert_array_equal(file.proprio(episode), states[rows])
            np.testing.assert_array_equal(file.actions(episode)[:-1], actions[rows][:-1])
            apart = np.abs(file.pixels(episode).astype(int) - pixels[rows])
            assert apart.max() <= (20 if video else 0)  # a video is lossy; the next frame is further away
        export_lerobot(file, tmp_path / "back", "push")
        read = lerobot.LeRobotDataset("me/set", root=tmp_path / "back")
        assert (read.num_episodes, read.num_frames) == (len(LENGTHS), sum(LENGTHS))
        item = read[int(ends[0] + 3)]
        assert (int(item["episode_index"]), int(item["frame_index"])) == (1, 3)
        np.testing.assert_array_equal(item["observation.state"], file.proprio(1)[3])
        np.testing.assert_array_equal(item["action"], file.actions(1)[3])
        camera = next(name for name in item if name.startswith("observation.images"))
        shown = np.asarray(255 * item[camera]).transpose(1, 2, 0).round()
        np.testing.assert_array_equal(shown, file.pixels(1)[3])
