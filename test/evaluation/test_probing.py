import contextlib
import dataclasses
import json

import numpy as np
import pytest
import torch

from world_model_ros.cli import main
from world_model_ros.data.clips import split_episodes
from world_model_ros.data.episodes import EpisodeFile, EpisodeWriter
from world_model_ros.errors import UserError
from world_model_ros.evaluation import probing
from world_model_ros.evaluation.probing import measure, shrunk_pixels, summary, untrained_encoder
from world_model_ros.evaluation.recordings import (
    FRESH_IMAGINATION,
    FRESH_NORMAL,
    FRESH_PROBING,
    FRESH_RISK,
    FRESH_VIOLATIONS,
    encode_frames,
    fresh_recordings,
    held_out_split,
    one_step_errors,
    read_recordings,
)
from world_model_ros.model.checkpoint import load_checkpoint, save_checkpoint
from world_model_ros.model.frames import resize_frame
from world_model_ros.sim.collect import Recipe, attributes_of, record
from world_model_ros.sim.tasks import make_world

EPISODES = 12


@pytest.fixture(scope="module")
def shipped():
    return load_checkpoint("models/reach")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    recipe = Recipe("reach", seed=600_000_000, length=14, size=64)
    path = tmp_path_factory.mktemp("data") / "reach.h5"
    with (
        contextlib.closing(make_world("reach")) as world,
        EpisodeWriter(path, attributes_of(recipe)) as writer,
    ):
        for index in range(EPISODES):
            writer.append(*record(world, recipe, index), index=index)
    return path


@pytest.fixture(scope="module")
def checkpoint(shipped, tmp_path_factory):
    """Return models/reach as if the twelve episodes had been those of its training."""
    model, spec = shipped
    noted = {**spec.training, "episodes": EPISODES, "held_out_share": 0.25, "seed": 3}
    spec = dataclasses.replace(spec, training=noted)
    return str(save_checkpoint(tmp_path_factory.mktemp("models") / "reach", model, spec))


@pytest.fixture(scope="module")
def measured(checkpoint, path):
    return measure(checkpoint, "reach", path, None, seed=0)


def test_reach_model_knows_where_the_tip_is(measured):
    for kind in ("linear", "mlp"):
        assert set(measured["probes"][kind]) == {"latent", "pixels", "untrained"}
        assert measured["probes"][kind]["latent"]["end effector"] > 0.9
    assert measured["probes"]["linear"]["untrained"]["end effector"] < 0.9
    points = measured["scatter"]["end effector"]
    assert np.shape(points["true"]) == np.shape(points["predicted"]) == (3 * 14, 2)
    assert np.abs(np.subtract(points["true"], points["predicted"])).mean() < 0.04


def test_reach_model_imagines_better_than_copying(measured):
    found = measured["open_loop"]
    assert found["steps"] == list(range(1, 9))
    assert max(found["ratio"]) < 0.1
    assert found["error"][0] < found["error"][-1]


def test_judged_on_the_episodes_held_out(measured, path, shipped):
    assert measured["episodes"] == {
        "fitted_on": "episodes of the training",
        "judged_on": "episodes held out",
        "data": path.name,
        "fitted_frames": 9 * 14,
        "judged_episodes": 3,
        "judged_frames": 3 * 14,
    }
    _, spec = shipped
    spec = dataclasses.replace(spec, training={"episodes": EPISODES, "held_out_share": 0.25, "seed": 3})
    with EpisodeFile(path) as file:
        assert held_out_split(spec, file) == split_episodes(EPISODES, 0.25, 3)


def test_norms_and_straightness_are_there(measured):
    assert measured["norms"]["outside"]["held out"] < 0.02
    assert set(measured["norms"]["outside"]) == {"held out", "noise", "inverted", "black", "occluded"}
    quantiles = list(measured["norms"]["quantiles"]["held out"].values())
    assert quantiles == sorted(quantiles)
    assert set(measured["straightness"]) == {"latent", "pixels", "untrained", "end effector"}
    assert all(-1 <= value <= 1 for value in measured["straightness"].values())


def test_results_are_plain_and_readable(measured):
    json.dumps(measured, allow_nan=False)
    text = summary(measured)
    assert "R2 linear of latent" in text
    assert f"end effector {measured['linear_r']['latent']['end effector']:.3f}" in text
    assert "5 steps ahead" in text


def test_without_a_file_fresh_episodes_are_split(checkpoint, monkeypatch):
    asked = []

    def recorded(task, spec, count, seed):
        asked.append((task, count, seed))
        return fresh_recordings(task, spec, count, seed, length=12)

    monkeypatch.setattr(probing, "fresh_recordings", recorded)
    found = measure(checkpoint, "reach", None, 6, seed=5)
    assert asked == [("reach", 6, FRESH_PROBING + 5)]
    assert found["episodes"]["fitted_frames"] == found["episodes"]["judged_frames"] == 3 * 12


def test_fresh_episodes_have_streams_of_their_own():
    streams = sorted([FRESH_IMAGINATION, FRESH_PROBING, FRESH_NORMAL, FRESH_VIOLATIONS, FRESH_RISK])
    assert streams[0] > 1_000_000
    assert np.diff(streams).min() > 1_000_000


def test_too_few_episodes_are_refused(checkpoint):
    with pytest.raises(UserError, match="at least 4"):
        measure(checkpoint, "reach", None, 2, 0)


def test_short_episodes_have_no_errors(shipped):
    model, _ = shipped
    assert len(one_step_errors(model, torch.zeros(3, 64), torch.zeros(2, 10), 3)) == 0


def test_another_file_is_refused(path):
    with pytest.raises(UserError, match="trained on a file of 1200 episodes.*has 12"):
        measure("models/reach", "reach", path, None, 0)


def test_checkpoint_without_provenance_is_refused(shipped, path, tmp_path):
    model, spec = shipped
    folder = save_checkpoint(tmp_path / "bare", model, dataclasses.replace(spec, training={}))
    with pytest.raises(UserError, match="does not say which episodes"):
        measure(str(folder), "reach", path, None, 0)


def test_file_of_another_task_is_refused(shipped, path):
    _, spec = shipped
    with EpisodeFile(path) as file, pytest.raises(UserError, match="of the task 'reach', not of 'push'"):
        read_recordings(file, [0], spec, "push")


def test_read_and_fresh_recordings_are_the_same(shipped, path):
    _, spec = shipped
    with EpisodeFile(path) as file:
        read = read_recordings(file, [0, 1], spec, "reach")
    fresh = fresh_recordings("reach", spec, 2, 600_000_000, length=14)
    for a, b in zip(read, fresh, strict=True):
        np.testing.assert_array_equal(a.blocks, b.blocks)
        np.testing.assert_array_equal(a.states, b.states)
        # the file holds 64 px, fresh ones come from 128: both are area averages of the same picture
        np.testing.assert_array_equal(a.pixels, b.pixels)


def test_one_step_errors_are_those_of_each_step_alone(shipped, path):
    model, spec = shipped
    with EpisodeFile(path) as file:
        episode = read_recordings(file, [0], spec, "reach")[0]
    latents, blocks = encode_frames(model, episode.pixels, spec), torch.from_numpy(episode.blocks)
    errors = one_step_errors(model, latents, blocks, 3)
    assert len(errors) == len(latents) - 3
    with torch.inference_mode():
        for i in (0, 4, len(errors) - 1):
            predicted = model.predict(latents[None, i : i + 3], blocks[None, i : i + 3])[0, -1]
            expected = (predicted - latents[i + 3]).square().sum()
            torch.testing.assert_close(errors[i], expected, rtol=1e-3, atol=1e-4)


def test_untrained_encoder_is_random_and_normalised(shipped, path):
    _, spec = shipped
    with EpisodeFile(path) as file:
        frames = read_recordings(file, [0, 1, 2, 3], spec, "reach")
    frames = np.concatenate([r.pixels for r in frames])
    state = torch.random.get_rng_state()
    model = untrained_encoder(spec, frames, seed=0)
    assert torch.equal(state, torch.random.get_rng_state())
    assert not model.training
    hidden = model.projector.net[:2](model.encoder(_prepared(frames, spec)))
    torch.testing.assert_close(hidden.mean(0), torch.zeros_like(hidden[0]), atol=1e-2, rtol=0)
    first, second = (encode_frames(untrained_encoder(spec, frames, s), frames, spec) for s in (0, 1))
    torch.testing.assert_close(first, encode_frames(model, frames, spec))
    assert not torch.allclose(first, second)


def test_shrunk_pixels_are_averages():
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    small = shrunk_pixels(frames)
    assert small.shape == (2, 768)
    assert small[0, :3] * 255 == pytest.approx(frames[0, :4, :4].mean((0, 1)), abs=0.51)


def _prepared(frames, spec):
    from world_model_ros.model.encoder import normalise_pixels

    return normalise_pixels(torch.from_numpy(frames), spec.image)


@pytest.fixture(scope="module")
def recorded(path, tmp_path_factory):
    """Return the same episodes as a robot records them: a frame each control step, joints, no task."""
    recorded = tmp_path_factory.mktemp("data") / "robot.h5"
    attributes = attributes_of(Recipe("reach", seed=600_000_000, length=14, size=64))
    notes = {name: attributes[name] for name in attributes if name.startswith(("action_", "proprio_"))}
    notes |= {"period": attributes["period"], "block": attributes["block"], "steps_per_row": 1}
    with (
        EpisodeFile(path) as file,
        contextlib.closing(make_world("reach")) as world,
        EpisodeWriter(recorded, notes) as writer,
    ):
        for index in range(len(file)):
            world.reset((600_000_000, index))
            actions = file.actions(index)[:-1].reshape(-1, 2)
            pixels, proprio = [], []
            for action in (*actions, None):
                pixels.append(resize_frame(world.render(), 64))
                proprio.append(np.concatenate(world.joints()))
                if action is not None:
                    world.step(action)
            rows = np.concatenate([actions, [[np.nan, np.nan]]])
            writer.append(np.stack(pixels), rows, proprio=np.array(proprio), index=index)
    return recorded


def test_frames_at_every_control_step_are_read_at_every_model_step(shipped, path, recorded):
    _, spec = shipped
    with EpisodeFile(path) as sparse, EpisodeFile(recorded) as dense:
        assert len(dense.pixels(0)) == 66
        first, second = (read_recordings(file, [0, 5], spec, "reach") for file in (sparse, dense))
    for a, b in zip(first, second, strict=True):
        # one replays the float32 actions of the other
        assert np.abs(a.pixels.astype(int) - b.pixels).mean() < 0.1
        np.testing.assert_array_equal(a.blocks, b.blocks)
        assert b.states.shape == (14, 14)


def test_recorded_episodes_of_no_task_are_probed_and_reported(shipped, recorded, tmp_path, capsys):
    model, spec = shipped
    noted = {**spec.training, "episodes": EPISODES, "held_out_share": 0.5, "seed": 3, "task": ""}
    folder = str(save_checkpoint(tmp_path / "robot", model, dataclasses.replace(spec, training=noted)))
    results = tmp_path / "results"
    results.mkdir()
    words = ["--checkpoint", folder, "--data", str(recorded)]
    assert main(["evaluate", "--protocol", "probing", *words, "--json", str(results / "k.json")]) == 0
    assert "recorded episodes, probing" in capsys.readouterr().out
    found = json.loads((results / "k.json").read_text())
    probed = found["probes"]["linear"]["latent"]
    assert set(probed) >= {"panda_joint1", "panda_joint2", "panda_joint4"}
    assert "panda_joint3" not in probed  # it never moves
    assert probed["panda_joint1"] > 0.9
    page = tmp_path / "page.html"
    assert main(["report", *words, "--results", str(results), "--out", str(page)]) == 0
    text = page.read_text()
    assert "none: recorded episodes" in text
    assert "a simulated task (docs/new_task.md)" in text
    assert "held-out episodes of robot.h5" in text
    assert main(["evaluate", "--protocol", "surprise", *words]) == 2
    assert main(["report", *words[:2], "--out", str(page)]) == 2
    assert capsys.readouterr().err.count("give --task") == 2
