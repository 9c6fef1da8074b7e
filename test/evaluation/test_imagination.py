import contextlib
import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import torch

from world_model_ros.cli import main
from world_model_ros.errors import UserError
from world_model_ros.evaluation import probing
from world_model_ros.evaluation.imagination import (
    PictureReader,
    mean_and_interval,
    measure,
    open_loop,
    psnr,
    ssim,
    summary,
)
from world_model_ros.evaluation.recordings import Recording, fresh_recordings
from world_model_ros.model.checkpoint import load_checkpoint, save_checkpoint
from world_model_ros.sim.tasks import find_task, make_world


def flat(value, count=1):
    return np.full((count, 16, 16, 3), value, np.uint8)


def test_psnr_is_that_of_the_mean_square_error():
    assert psnr(flat(100, 2), np.stack([flat(110)[0], flat(101)[0]])) == pytest.approx(
        [10 * np.log10(255**2 / 100), 10 * np.log10(255**2)]
    )
    assert psnr(flat(7), flat(7)) == pytest.approx([100])


def test_ssim_is_one_for_the_same_and_follows_its_equation_for_flat_pictures():
    noise = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    assert ssim(noise, noise) == pytest.approx([1, 1])
    a, b = 100 / 255, 200 / 255
    assert ssim(flat(100), flat(200)) == pytest.approx([(2 * a * b + 1e-4) / (a * a + b * b + 1e-4)])
    assert np.all(ssim(noise, 255 - noise) < 0)


def test_an_interval_is_that_of_episodes_not_of_frames():
    rng = np.random.default_rng(0)
    of_episodes = rng.normal(0, 1, 40)
    values, groups = np.repeat(of_episodes, 25), np.repeat(np.arange(40), 25)
    found = mean_and_interval(values, groups, np.random.default_rng(1))
    low, high = found["interval"]
    assert low < found["mean"] < high
    assert found["mean"] == pytest.approx(of_episodes.mean())
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(40), rel=0.3)
    assert found["p90"] > found["median"]


@pytest.fixture(scope="module")
def pushed():
    """Frames of the task push and where the T's middle is in them."""
    with contextlib.closing(make_world("push", image_size=64)) as world:
        frames, places = [], []
        for seed in range(90):
            world.reset(seed)
            frames.append(world.render())
            places.append(world.state()[2:4])
    return np.stack(frames), np.stack(places)


def test_the_block_is_read_from_pictures_by_its_colours(pushed):
    frames, places = pushed
    reader = PictureReader(find_task("push"), frames[:60], places[:60], np.arange(60) >= 48, seed=0)
    errors = 100 * np.linalg.norm(reader(frames[60:]) - places[60:], axis=1)
    assert np.median(errors) < 0.8
    wiped = frames[60:].copy()
    wiped[:] = np.median(frames, axis=0)
    assert np.median(100 * np.linalg.norm(reader(wiped) - places[60:], axis=1)) > 3


def test_a_task_without_marks_is_read_by_its_pixels(pushed):
    frames, places = pushed

    class Plain:
        marks = staticmethod(lambda _: None)

    reader = PictureReader(Plain, frames[:60], places[:60], np.arange(60) >= 48, seed=0)
    assert reader(frames[:5]).shape == (5, 2)


def test_imagined_latents_are_those_of_the_models_rollout():
    model, _ = load_checkpoint("models/reach")
    generator = torch.Generator().manual_seed(0)
    recordings = [
        Recording(np.zeros((length, 1, 1, 3), np.uint8), np.zeros((length - 1, 10), np.float32), None)
        for length in (9, 5, 8)
    ]
    for recording in recordings:
        recording.blocks[:] = torch.randn(recording.blocks.shape, generator=generator)
    latents = torch.randn(22, 64, generator=generator)
    starts, imagined = open_loop(model, recordings, latents, steps=5)
    assert starts.tolist() == [0, 1, 14]
    blocks = torch.from_numpy(recordings[2].blocks)
    with torch.no_grad():
        wanted = model.rollout(latents[None, 14:17], blocks[None, :2], blocks[None, None, 2:])[0, 0, -1]
    torch.testing.assert_close(imagined[2], wanted, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def measured():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing, "fresh_recordings", partial(fresh_recordings, length=14))
        return measure("models/reach", "reach", None, 24, seed=1)


def test_the_shipped_decoder_shows_where_the_tip_is(measured):
    assert measured["pictured"] == "end effector"
    assert measured["psnr"]["mean"] > measured["median_frame"]["psnr"]["mean"] + 3
    assert measured["ssim"]["mean"] > measured["median_frame"]["ssim"]["mean"]
    errors = measured["block_cm"]
    assert errors["decoded"]["mean"] < errors["real_frames"]["mean"] + 1
    for ahead in measured["ahead"].values():
        assert ahead["all"]["windows"] > 0
        errors = ahead["moved"]["block_cm"]
        assert errors["decoded"]["mean"] < 0.5 * errors["copy"]["mean"]
    assert measured["ahead"]["5"]["all"]["windows"] == 12 * 7


def test_results_are_plain_and_readable(measured):
    json.dumps(measured, allow_nan=False)
    text = summary(measured)
    assert f"PSNR {measured['psnr']['mean']:.1f} [" in text
    assert "8 steps ahead" in text
    assert "error of the end effector in cm: decoded " in text


def test_a_checkpoint_without_a_decoder_is_refused_with_the_remedy(tmp_path, capsys):
    model, spec = load_checkpoint("models/reach")
    model.decoder = None
    bare = dataclasses.replace(spec.model, decoder_width=0, decoder_size=0)
    folder = save_checkpoint(tmp_path / "bare", model, dataclasses.replace(spec, model=bare))
    words = ["evaluate", "--task", "reach", "--checkpoint", str(folder), "--protocol", "imagination"]
    assert main(words) == 2
    assert "train-heads --decoder" in capsys.readouterr().err


def test_too_few_episodes_are_refused():
    with pytest.raises(UserError, match="at least 4"):
        measure("models/reach", "reach", None, 2)


def test_short_episodes_have_no_windows():
    model, spec = load_checkpoint("models/reach")
    recordings = fresh_recordings("reach", spec, 1, 5, length=4)
    starts, imagined = open_loop(model, recordings, torch.zeros(4, 64), steps=5)
    assert len(starts) == len(imagined) == 0
