from dataclasses import replace

import numpy as np
import pytest
import torch

from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.monitoring.camera_latency import CameraLatency

BLOCK, DIM = 5, 2


class Plane:
    """A model of a point that moves as it is told: the latent is its place."""

    def predict(self, latents, blocks):
        return latents + blocks.unflatten(-1, (BLOCK, DIM)).sum(-2)


@pytest.fixture
def spec(checkpoint):
    spec = load_checkpoint(checkpoint)[1]
    action = replace(spec.action, mean=(0.0,) * DIM, std=(1.0,) * DIM)
    return replace(spec, action=action, thresholds=replace(spec.thresholds, surprise=1.0))


def watch(latency, late, actions, noise=0.0, seed=5, gain=1.0):
    """Let the estimator see the point ``late`` control steps ago, once a model step; return what it says.

    The point moves ``gain`` times as far as it is told.
    """
    rng, said = np.random.default_rng(seed), []
    places = np.concatenate([np.zeros((1, DIM)), np.cumsum(gain * actions, 0)])
    for now in range(2 * BLOCK, len(actions) + 1, BLOCK):
        ends = [now - shift for shift in range(BLOCK)]
        blocks = [actions[end - BLOCK : end] for end in ends] if said else None
        said.append(latency.step(places[now - late] + rng.normal(0, noise, DIM), blocks))
    return said


def moves(steps, seed=3):
    return np.random.default_rng(seed).uniform(-1, 1, (BLOCK * steps, DIM))


@pytest.mark.parametrize("late", range(BLOCK))
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_finds_how_old_the_pictures_are_within_some_moves(spec, late, noise):
    said = watch(CameraLatency(Plane(), spec), late, moves(20), noise)
    assert said[-1] == late
    if not noise:
        assert said[5:] == [late] * len(said[5:])


def test_pictures_of_now_never_count_as_late(spec):
    for seed in range(20):
        latency = CameraLatency(Plane(), spec)
        assert set(watch(latency, 0, moves(40, seed), 0.05, seed)) == {0}


def test_a_robot_that_stands_still_tells_nothing(spec):
    latency = CameraLatency(Plane(), spec)
    assert set(watch(latency, 3, np.zeros((100, DIM)), 0.1)) == {0}


@pytest.mark.parametrize("gain", [0.0, 0.9, 1.1])
def test_a_robot_that_does_not_do_what_is_sent_or_a_tenth_less_or_more_is_not_late(spec, gain):
    """Moves as towards goals: abrupt starts that slow down."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        starts = np.zeros((24, 1, DIM))
        starts[::2, 0] = rng.uniform(-1, 1, (12, DIM))
        actions = (starts * 0.75 ** np.arange(rng.integers(11, 17))[:, None]).reshape(-1, DIM)
        assert set(watch(CameraLatency(Plane(), spec), 0, actions, 0.02, seed, gain)) == {0}


def test_follows_a_camera_whose_latency_changes(spec):
    latency = CameraLatency(Plane(), spec)
    assert watch(latency, 3, moves(30))[-1] == 3
    latency.forget()
    assert watch(latency, 1, moves(30, 4))[-1] == 1
    latency.reset()
    assert latency.steps == 0


def test_a_gap_keeps_the_estimate_and_a_broken_latent_changes_nothing(spec):
    latency = CameraLatency(Plane(), spec)
    watch(latency, 2, moves(20))
    assert latency.step(np.zeros(DIM), None) == 2
    assert latency.step(np.full(DIM, np.nan), moves(BLOCK).reshape(BLOCK, BLOCK, DIM)) == 2
    assert latency.step(np.zeros(DIM), None) == 2


def test_without_a_surprise_threshold_there_is_no_scale_and_no_estimate(spec):
    without = replace(spec, thresholds=replace(spec.thresholds, surprise=None))
    latency = CameraLatency(Plane(), without)
    assert set(watch(latency, 3, moves(20))) == {0}


def test_the_predictor_of_a_checkpoint_takes_the_histories_as_they_grow(checkpoint):
    model, spec = load_checkpoint(checkpoint)
    spec = replace(spec, thresholds=replace(spec.thresholds, surprise=1.0))
    latency, rng = CameraLatency(model, spec), np.random.default_rng(1)
    seen = []
    predict = model.predict
    model.predict = lambda latents, blocks: seen.append(tuple(latents.shape)) or predict(latents, blocks)
    for step in range(5):
        blocks = rng.uniform(-0.1, 0.1, (BLOCK, BLOCK, spec.action.dim)) if step else None
        latency.step(rng.normal(size=spec.model.latent_dim), blocks)
    assert [shape[1] for shape in seen] == [min(n, spec.history) for n in (1, 2, 3, 4)]
    assert torch.is_tensor(latency._latents[-1])
