"""Goal pictures from files."""

import cv2
import numpy as np
import pytest

from world_model_ros.data.episodes import EpisodeWriter
from world_model_ros.data.goals import Origin, read_goals
from world_model_ros.errors import UserError


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "red.png"
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[..., 0] = 200
    cv2.imwrite(str(path), pixels[..., ::-1])
    return path


@pytest.fixture
def episodes(tmp_path):
    """Two episodes of four frames, the brightness of each being 10 times its episode plus its step."""
    path = tmp_path / "mine.h5"
    attributes = {
        "action_names": ["x"],
        "action_kind": "twist",
        "action_unit": "m/s",
        "action_low": [-1.0],
        "action_high": [1.0],
        "period": 0.05,
        "block": 5,
        "steps_per_row": 1,
        "source": "test",
    }
    with EpisodeWriter(path, attributes) as writer:
        for episode in range(2):
            levels = 10 * episode + np.arange(4, dtype=np.uint8)
            frames = np.tile(levels[:, None, None, None], (1, 8, 8, 3)).astype(np.uint8)
            writer.append(frames, np.zeros((4, 1), np.float32))
        return writer.finish()


def test_a_frame_knows_where_it_comes_from_and_what_contradicts_a_checkpoint(episodes, picture, checkpoint):
    from dataclasses import replace

    from world_model_ros.model.config import RobotSpec, read_spec

    assert read_goals([str(picture)])[0].origin is None
    (goal,) = read_goals([str(episodes)])
    assert goal.origin == Origin("", "", ("x",))
    spec = read_spec(checkpoint)  # of linear_x and linear_y
    assert goal.origin.differences(spec) == ["actions x in the file and linear_x, linear_y in the checkpoint"]
    spec = replace(spec, robot=RobotSpec("cell2"), training={"task": "push"})
    assert Origin("cell1", "reach", spec.action.names).differences(spec) == [
        "robot cell1 in the file and cell2 in the checkpoint",
        "task reach in the file and push in the checkpoint",
    ]
    for fits in (
        Origin("cell2", "push", spec.action.names),
        Origin("", "", ()),
        Origin("", "", ("linear_y", "linear_x", "linear_z")),  # trained on two of three
    ):
        assert fits.differences(spec) == []


def test_goals_are_pictures_frames_and_the_camera_in_order(picture, episodes):
    goals = read_goals([str(picture), str(episodes), "camera"], 1, [2, -1])
    assert [goal.name for goal in goals] == [
        "red.png",
        "mine.h5, episode 1, step 2",
        "mine.h5, episode 1, step 3",
        "the camera's view",
    ]
    assert goals[0].pixels.shape == (8, 12, 3)
    assert goals[0].pixels[0, 0].tolist() == [200, 0, 0]
    assert goals[1].pixels[0, 0].tolist() == [12, 12, 12]
    assert goals[3].pixels is None
    (last,) = read_goals([str(episodes)])
    assert last.pixels[0, 0, 0] == 3


def test_what_is_no_goal_is_one_sentence(picture, episodes, tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    deep = tmp_path / "deep.png"
    cv2.imwrite(str(deep), np.full((8, 8), 40000, np.uint16))
    for arguments, expected in (
        ((["missing.png"],), "missing.png does not exist"),
        (([str(tmp_path)],), f"{tmp_path.name} is no file"),
        (([str(text)],), "neither a JPEG nor a PNG; give a PNG or JPEG in colour"),
        (([str(deep)],), "it is a PNG of 16-bit values; give a PNG or JPEG in colour"),
        (([str(episodes)], 2), "no episode 2: it has 2, numbered 0 to 1"),
        (([str(episodes)], 0, [4]), "no step 4: it has 4 frames, numbered 0 to 3"),
        (([str(picture)], 3), "--episode and --step choose a frame of an episode file"),
    ):
        with pytest.raises(UserError, match="^[^\n]*$") as error:
            read_goals(*arguments)
        assert expected in str(error.value)
