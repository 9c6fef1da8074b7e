import numpy as np
import pytest
import torch

from world_model_ros.training.metrics import (
    copy_error,
    effective_rank,
    latent_std,
    looks_collapsed,
    overfits,
)


def test_effective_rank_of_known_matrices():
    basis = torch.linalg.qr(torch.randn(6, 6, dtype=torch.double))[0]
    both_ways = torch.cat([basis, -basis])
    assert effective_rank(both_ways) == pytest.approx(6)
    assert effective_rank(both_ways @ torch.diag(torch.tensor([1.0, 1, 1, 0, 0, 0]).double())) <= 6
    line = torch.linspace(-1, 1, 50)[:, None] * torch.randn(1, 6)
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.ones(10, 6)) == 0
    # two directions with shares 0.9 and 0.1: exp of their entropy
    pair = torch.tensor([[3.0, 0], [-3, 0], [0, 1], [0, -1]])
    assert effective_rank(pair) == pytest.approx(np.exp(-(0.9 * np.log(0.9) + 0.1 * np.log(0.1))))


def test_copy_error_and_std_of_known_latents():
    latents = torch.tensor([[[0.0, 0], [1, 1], [3, 1]]])
    assert copy_error(latents) == pytest.approx((1 + 1 + 4 + 0) / 4)
    assert latent_std(torch.tensor([[1.0, 5], [3, 5]])) == pytest.approx(2**0.5 / 2)


def test_collapse_is_noticed():
    healthy = {"latent_std": 0.9, "effective_rank": 20.0}
    assert not looks_collapsed(healthy)
    assert looks_collapsed({**healthy, "latent_std": 0.01})
    assert looks_collapsed({**healthy, "effective_rank": 1.1})


def test_overfitting_is_noticed():
    assert overfits({"prediction": 0.027, "prediction_seen": 0.017})
    assert not overfits({"prediction": 0.021, "prediction_seen": 0.018})
