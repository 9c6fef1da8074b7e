import numpy as np
import pytest

from world_model_ros.data.clips import split_episodes
from world_model_ros.training.loop import (
    batch_indices,
    learning_rate,
)


def test_split_is_by_episode_seeded_and_complete():
    training, held_out = split_episodes(50, 0.1, seed=3)
    assert len(held_out) == 5
    assert sorted(training + held_out) == list(range(50))
    assert split_episodes(50, 0.1, seed=3) == (training, held_out)
    assert split_episodes(50, 0.1, seed=4) != (training, held_out)
    assert [len(part) for part in split_episodes(2, 0.9, seed=0)] == [1, 1]


def test_every_epoch_sees_every_clip_once():
    seen = [batch_indices(step, 20, 5, seed=1) for step in range(8)]
    for epoch in (seen[:4], seen[4:]):
        assert sorted(np.concatenate(epoch)) == list(range(20))
    assert not np.array_equal(seen[0], seen[4])
    assert len(batch_indices(0, 3, 5, seed=1)) == 3


def test_learning_rate_warms_up_and_falls_to_nothing():
    rates = [learning_rate(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1
    assert rates[-1] < 1e-4
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))
