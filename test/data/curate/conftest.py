"""Recorded episodes: a bright block that actions move to and fro."""

import h5py
import numpy as np
import pytest

from world_model_ros.data.episodes import EpisodeWriter

ATTRIBUTES = {
    "action_names": ["x", "y"],
    "action_kind": "twist",
    "action_unit": "m/s",
    "action_low": [-1.0, -1.0],
    "action_high": [1.0, 1.0],
    "period": 0.1,
    "block": 5,
    "steps_per_row": 1,
    "source": "test",
    "state_names": ["x", "y"],
    "seed": 3,
    "length": 20,
}


def draw(place, brightness=60):
    """A bright block at ``place`` in [0, 1]^2 on 24 x 32 pixels."""
    frame = np.full((24, 32, 3), brightness, np.uint8)
    left, top = int(place[0] * 24), int(place[1] * 16)
    frame[top : top + 8, left : left + 8] = 250
    frame[0, 0] = np.arange(3) + int(1e6 * place[0]) % 200  # no two places look the same
    return frame


def moves(rng, length):
    """Actions (length, 2) in [-1, 1] of varying size, the last row NaN."""
    size = rng.uniform(0, 1, (length, 1)) ** 2
    angle = rng.uniform(0, 2 * np.pi, (length, 1))
    actions = size * np.concatenate([np.cos(angle), np.sin(angle)], 1)
    actions[:4] = np.array([[1, 0.9], [-1, -0.9], [0.9, 1], [-0.9, -1]])[:length]
    actions[-1] = np.nan
    return actions.astype(np.float32)


def film(rng, actions, brightness=60):
    """Frames (T, 24, 32, 3) and places (T, 2) of what actions do."""
    place = rng.uniform(0.3, 0.7, 2)
    places = []
    for action in actions:
        places.append(place)
        place = np.clip(place + 0.2 * np.nan_to_num(action), 0, 1)
    return np.stack([draw(p, brightness) for p in places]), np.array(places, np.float32)


def _write(path, episodes=6, length=20, seed=0, change=None, attributes=None, labels=None):
    """Write episodes; ``change(episode, pixels, actions, places)`` returns other columns."""
    rng = np.random.default_rng(seed)
    with EpisodeWriter(path, {**ATTRIBUTES, **(attributes or {})}) as writer:
        for episode in range(episodes):
            actions = moves(rng, length)
            pixels, places = film(rng, actions)
            columns = pixels, actions, places
            if change:
                columns = change(episode, *columns)
            writer.append(*columns, label=-1 if labels is None else labels[episode])
    return path


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch):
    """Do not wait for the disk, which would take most of the time."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture(scope="session")
def write():
    """Return a function that writes episodes to a file."""
    return _write


@pytest.fixture
def more(tmp_path, write):
    """Return a file with all kinds of further datasets."""
    path = write(tmp_path / "more.h5", labels=[1, 0, -1, 1, -1, 0])
    rng = np.random.default_rng(9)
    with h5py.File(path, "r+") as file:
        rows = len(file["pixels"])
        file.create_dataset(
            "pixels_wrist", data=rng.integers(0, 256, (rows, 8, 8, 3), np.uint8), chunks=(1, 8, 8, 3)
        )
        file["extra/current"] = rng.normal(size=rows)
        file["extra/current"].attrs["unit"] = "A"
        file["weight"] = np.arange(6) * 0.5
        file.create_dataset("words", data=[f"word {i}" for i in range(6)], dtype=h5py.string_dtype())
        file["calibration"] = np.eye(3)
    return path
