"""The object distance below which a goal counts as reached."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from world_model_ros.model.heads import ObjectDistance
from world_model_ros.training import calibrate

FRAMES = 600


class Recording:
    """One episode of an arm with one joint, and of a block that it pushes; a frame shows both."""

    has_states = True
    attributes = {"state_names": ["ee_x", "block_x", "block_yaw"]}

    def __init__(self):
        rng = np.random.default_rng(0)
        self.joint = rng.uniform(-1, 1, (FRAMES, 1))
        block, yaw = rng.uniform(-0.1, 0.1, FRAMES), rng.uniform(-0.2, 0.2, FRAMES)
        self.rows = np.stack([np.sin(self.joint[:, 0]), block, yaw], 1)

    def states(self, episode):
        return self.rows

    def proprio(self, episode):
        return self.joint


@pytest.fixture
def model(monkeypatch):
    """A model whose latents are the states, and whose codes are what the block does."""
    monkeypatch.setattr(calibrate, "encode_frames", lambda _, rows, __: torch.from_numpy(rows).float())
    head = ObjectDistance(3, 4, 2)
    head.net = torch.nn.Linear(3, 2, bias=False).requires_grad_(False)
    head.net.weight.copy_(torch.tensor([[0.0, 10.0, 0.0], [0.0, 0.0, 1.0]]))
    return SimpleNamespace(object=head)


def test_the_distance_of_an_object_in_the_same_place_wherever_the_robot_is(model):
    file = Recording()
    clips = SimpleNamespace(episodes=[0], pixels=file.rows)
    spec = SimpleNamespace(image=None)
    assert calibrate._explained(file.joint, file.rows).tolist() == [True, False, False]
    reached, metrics = calibrate.calibrate_object(model, file, clips, spec)
    assert 0.03 < reached < 0.12  # of at most 0.15 in place and 0.1 in angle
    assert metrics["object_reached"] == reached
    assert "held-out pairs" in metrics["object_reached_from"]


def test_without_a_head_states_or_joints_there_is_no_such_distance(model):
    file, spec = Recording(), SimpleNamespace(image=None)
    clips = SimpleNamespace(episodes=[0], pixels=file.rows)
    assert calibrate.calibrate_object(SimpleNamespace(object=None), file, clips, spec) == (None, {})
    file.joint = np.zeros((FRAMES, 0))
    assert calibrate.calibrate_object(model, file, clips, spec) == (None, {})
    file.has_states = False
    assert calibrate.calibrate_object(model, file, clips, spec) == (None, {})


def test_a_recorded_robot_is_in_the_same_place_where_its_commanded_joints_are(model):
    file = Recording()
    file.has_states, file.attributes = False, {"proprio_names": ["held", "j", "j_velocity"]}
    file.joint = np.hstack(
        [np.zeros((FRAMES, 1)), file.joint, np.random.default_rng(1).normal(size=(FRAMES, 1))]
    )
    clips = SimpleNamespace(episodes=[0], pixels=file.joint[:, 1:2])
    spec = SimpleNamespace(image=None, action=SimpleNamespace(kind="joint_velocity", names=("j",)))
    reached, metrics = calibrate._from_joints(model, file, clips, spec, 0)
    assert 0.9 * 0.018**2 < reached < 0.02**2
    assert "with the joints in the same place" in metrics["goal_reached_from"]
    spec.action.kind = "twist"
    assert calibrate._from_joints(model, file, clips, spec, 0) == (None, {})
