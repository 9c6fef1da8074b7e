"""A small world to train on: a bright spot that actions move."""

import json

import numpy as np
import pytest

from world_model_ros.data.episodes import EpisodeWriter
from world_model_ros.model.config import ModelConfig
from world_model_ros.training import heads, train

ATTRIBUTES = {
    "action_names": ["linear_x", "linear_y"],
    "action_kind": "twist",
    "action_unit": "m/s",
    "action_frame": "base",
    "action_low": [-1.0, -1.0],
    "action_high": [1.0, 1.0],
    "period": 0.05,
    "block": 2,
    "steps_per_row": 2,
    "source": "test",
    "task": "spot",
    "state_names": ["x", "y"],
}


def _picture(place):
    """A bright spot at ``place`` in [0, 1]^2, 64 px."""
    grid = (np.arange(64) + 0.5) / 64
    spot = np.exp(-((grid[:, None] - place[1]) ** 2 + (grid[None] - place[0]) ** 2) / 0.01)
    return np.repeat((40 + 200 * spot)[..., None], 3, axis=2).astype(np.uint8)


def _write_episodes(path, episodes=32, frames=12, states=True, seed=0):
    rng = np.random.default_rng(seed)
    with EpisodeWriter(path, ATTRIBUTES) as writer:
        for _ in range(episodes):
            place, rows = rng.uniform(0.2, 0.8, 2), []
            for _ in range(frames):
                action = rng.uniform(-1, 1, (2, 2))
                rows.append((_picture(place), action.ravel(), place.copy()))
                place = np.clip(place + 0.1 * action.sum(0), 0.1, 0.9)
            pixels, actions, places = (np.stack(column) for column in zip(*rows, strict=True))
            actions[-1] = np.nan
            writer.append(pixels, actions, places if states else None)
    return path


def _command(data, folder, **options):
    """Return the words of a training, on the CPU unless asked otherwise: there it is the same bit for bit."""
    options = {"device": "cpu", **options}
    heads = {"temporal-steps": 20, "inverse-steps": 20}
    options = {"steps": 12, "batch": 16, "projections": 32, "threads": 1, **heads, **options}
    words = ["train", "--data", str(data), "--out", str(folder / "out"), "--run", str(folder / "run")]
    for name, value in options.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


def _lines(folder):
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def picture():
    """Return a function that draws the spot at a place in [0, 1]^2, 64 px."""
    return _picture


@pytest.fixture(scope="session")
def write_episodes():
    """Return a function that writes episodes of the spot to a file."""
    return _write_episodes


@pytest.fixture(scope="session")
def command():
    """Return a function that makes the train verb's words of a data file, a folder and options."""
    return _command


@pytest.fixture(scope="session")
def lines():
    """Return a function that reads a training's metrics."""
    return _lines


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return _write_episodes(tmp_path_factory.mktemp("data") / "spot.h5")


@pytest.fixture
def tiny(monkeypatch):
    """Make --size small a model that trains in a second, and its heads likewise."""

    def config(action_dim):
        return ModelConfig(
            encoder="conv",
            image_size=64,
            action_dim=action_dim,
            latent_dim=8,
            history=3,
            encoder_width=32,
            projector_hidden=32,
            action_hidden=16,
            predictor_width=16,
            predictor_depth=1,
            predictor_heads=2,
            predictor_head_dim=8,
            predictor_mlp=32,
            dropout=0.1,
            channels=(8, 16, 16),
        )

    monkeypatch.setitem(train._SIZES, "small", config)
    for width in ("TEMPORAL_HIDDEN", "INVERSE_HIDDEN"):
        monkeypatch.setattr(heads, width, 64)
    return config
