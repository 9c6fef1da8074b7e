import numpy as np
import pytest

from world_model_ros import cli
from world_model_ros.data.curate.checks import lag, sample_frames, summarise_actions
from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.data.inspect import describe_file

GOOD = {"episodes": 50, "length": 30}


def said(path):
    """Return the warnings of inspect."""
    lines = describe_file(path).splitlines()
    return [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]


def test_good_episodes_need_no_warning(tmp_path, write):
    path = write(tmp_path / "a.h5", **GOOD)
    assert said(path) == []
    assert "coverage: x 0" in describe_file(path)


def test_few_episodes(tmp_path, write):
    assert said(write(tmp_path / "a.h5", episodes=12, length=30)) == [
        "12 episodes are few: record 50 or more, of different movements, before you judge a model trained "
        "on them"
    ]


def test_a_dimension_that_never_moves(tmp_path, write):
    def change(_, pixels, actions, places):
        actions[:-1, 1] = 0.1
        return pixels, actions, places

    (warning,) = said(write(tmp_path / "a.h5", **GOOD, change=change))
    assert warning.startswith("the action y never moves: train with `--drop-actions y`")


def test_limits_that_are_never_reached(tmp_path, write):
    path = write(
        tmp_path / "a.h5", **GOOD, attributes={"action_low": [-4.0, -1.0], "action_high": [4.0, 1.0]}
    )
    (warning,) = said(path)
    assert warning.startswith("the action x reaches 25% of its limits at most (-1 to 1, limits -4 to 4)")


@pytest.mark.parametrize("k", [-6, -3, -1, 1, 2, 5])
def test_a_known_lag_is_found(tmp_path, write, k):
    def change(_, pixels, actions, places):
        moved = np.zeros_like(actions)
        if k > 0:  # the action of row t stands in row t + k
            moved[k:-1] = actions[: -1 - k]
        else:
            moved[:k] = actions[-k:]
        moved[~np.isfinite(moved)] = 0
        moved[-1] = np.nan
        return pixels, moved, places

    path = write(tmp_path / "a.h5", episodes=50, length=40, change=change)
    with EpisodeFile(path) as file:
        assert lag(file, summarise_actions(file), sample_frames(file)) == k
    first, second = ("actions", "frames") if k > 0 else ("frames", "actions")
    steps = f"{abs(k)} control step{'s' * (abs(k) > 1)} ({abs(k) * 0.1:.2f} s)"
    assert any(w.startswith(f"the {first} lag the {second} by about {steps}") for w in said(path))


def test_frames_of_noise_have_no_lag(tmp_path, write):
    rng = np.random.default_rng(0)

    def change(_, pixels, actions, places):
        return rng.integers(0, 256, pixels.shape, np.uint8), actions, places

    assert not any("lag" in warning for warning in said(write(tmp_path / "a.h5", **GOOD, change=change)))


@pytest.mark.parametrize(("step", "word"), [(1, "brighter"), (-1, "darker")])
def test_brightness_that_drifts(tmp_path, write, step, word):
    def change(episode, pixels, actions, places):
        return np.clip(pixels.astype(int) + 60 + step * episode, 0, 255).astype(np.uint8), actions, places

    (warning,) = said(write(tmp_path / "a.h5", **GOOD, change=change))
    assert warning.startswith(f"the frames get {word} over the file (mean 1")


def test_brightness_that_varies_does_not_drift(tmp_path, write):
    def change(episode, pixels, actions, places):
        return np.clip(pixels.astype(int) + 40 * (episode % 2), 0, 255).astype(np.uint8), actions, places

    assert said(write(tmp_path / "a.h5", **GOOD, change=change)) == []


def test_identical_consecutive_frames(tmp_path, write):
    def change(_, pixels, actions, places):
        pixels[5::5] = pixels[4::5][: len(pixels[5::5])]
        actions[:-1][np.abs(actions[:-1]).max(1) < 0.1] = 0.5
        return pixels, actions, places

    warnings = said(write(tmp_path / "a.h5", **GOOD, change=change))
    assert any("18% of the frames in which the robot moves are identical to" in w for w in warnings), warnings


def test_a_robot_at_rest_has_identical_frames(tmp_path, write):
    def change(_, pixels, actions, places):
        actions[10:14] = 0
        pixels[10:15] = pixels[10]
        return pixels, actions, places

    assert said(write(tmp_path / "a.h5", **GOOD, change=change)) == []


def test_idle_heads_and_tails(tmp_path, write):
    def change(episode, pixels, actions, places):
        if episode < 10:
            actions[:12] = 0
        if episode == 11:
            actions[:-1] = 0
        return pixels, actions, places

    path = write(tmp_path / "a.h5", **GOOD, change=change)
    warnings = said(path)
    assert (
        f"10 of 50 episodes begin or end idle, 12 s in all: `episodes trim {path}` removes that; "
        f"1 of 50 episodes never move: `episodes list {path}` shows which"
    ) in warnings


def test_places_as_actions_are_idle_where_they_do_not_change(tmp_path, write):
    def change(_, pixels, actions, places):
        targets = places.copy()
        targets[:12] = targets[12]
        targets[-1] = np.nan
        return pixels, targets, places

    attributes = {"action_kind": "joint_position", "action_low": [0.0, 0.0], "action_high": [1.0, 1.0]}
    path = write(tmp_path / "a.h5", **GOOD, change=change, attributes=attributes)
    assert any("50 of 50 episodes begin or end idle" in warning for warning in said(path))


def test_a_workspace_of_which_little_was_seen(tmp_path, write):
    def change(_, pixels, actions, places):
        places = np.tile(np.linspace(0, 1, len(places))[:, None], (1, 2)).astype(np.float32)
        return pixels, actions, places

    (warning,) = said(write(tmp_path / "a.h5", **GOOD, change=change))
    assert warning.startswith("the episodes visit 10% of the area between the extremes of x and y")


def test_a_joint_that_holds_still_is_no_side_of_the_workspace(tmp_path, write):
    def change(_, pixels, actions, places):
        hum = 1e-3 * np.random.default_rng(0).normal(size=(len(places), 1)).astype(np.float32)
        return pixels, actions, np.hstack([places[:, :1], 0.85 + hum, places[:, 1:]])

    path = write(tmp_path / "a.h5", **GOOD, change=change, attributes={"state_names": ["x", "held", "y"]})
    assert "cells over x and y" in describe_file(path)


def test_labels_are_counted(tmp_path, write):
    path = write(tmp_path / "a.h5", episodes=3, labels=[1, 1, 0])
    assert "labels: 2 success, 1 failure, 0 none" in describe_file(path)


def test_large_frames_are_sampled(tmp_path, write, monkeypatch):
    path = write(tmp_path / "a.h5", **GOOD)
    monkeypatch.setattr("world_model_ros.data.curate.checks._BYTES", 24 * 32 * 3 * 100)
    with EpisodeFile(path) as file:
        assert sum(len(s.change) + 1 for s in sample_frames(file)) <= 100


def test_where_nothing_is_neither_a_file_nor_a_checkpoint_is_missed(tmp_path, capsys):
    for words, said in (
        (["inspect"], "there is nothing at {}, neither an episode file nor a checkpoint: check the path."),
        (
            ["episodes", "list"],
            "no episode file at {}: make one with `record` or `collect`, or check the path.",
        ),
    ):
        assert cli.main([*words, str(tmp_path / "cell2")]) == 2
        assert said.format(tmp_path / "cell2") in capsys.readouterr().err
