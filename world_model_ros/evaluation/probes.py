"""Probes: small regressions from what a model sees to what is the case (paper, probing of latents).

A linear probe tells what lies in the open in a latent, an MLP what is there at all. Both are chosen on
validation rows and judged on others.
"""

import copy

import numpy as np
import torch
from torch import nn

STRENGTHS = tuple(10.0**power for power in range(-4, 4))  # of the ridge, per training row
HIDDEN = 256
_EPOCHS = 150
_PATIENCE = 12  # epochs without a better validation error
_BATCH = 256


def r2(true: np.ndarray, predicted: np.ndarray) -> float:
    """Return the coefficient of determination of (N, K), averaged over the K components.

    1 is perfect, 0 as good as the mean of ``true``, below 0 worse. Raises ValueError where a component
    of ``true`` does not vary.
    """
    true, predicted = np.asarray(true, float), np.asarray(predicted, float)
    spread = np.square(true - true.mean(0)).sum(0)
    if np.any(spread <= 0):
        raise ValueError("a quantity that never changes cannot be probed")
    return float(np.mean(1 - np.square(true - predicted).sum(0) / spread))


def correlation(true: np.ndarray, predicted: np.ndarray) -> float:
    """Return Pearson's r of (N, K), averaged over the K components: what the paper states of its probes.

    A component of ``predicted`` that does not vary counts 0. Raises ValueError where one of ``true`` does
    not.
    """
    true, predicted = np.asarray(true, float), np.asarray(predicted, float)
    if np.any(true.std(0) <= 0):
        raise ValueError("a quantity that never changes cannot be probed")
    together = ((true - true.mean(0)) * (predicted - predicted.mean(0))).mean(0)
    spread = true.std(0) * predicted.std(0)
    return float(np.mean(np.where(spread > 0, together / np.maximum(spread, 1e-300), 0.0)))


class Ridge:
    """Linear least squares with an L2 penalty on standardised features, in closed form.

    features (N, D), targets (N, K); the penalty's strength is the one of ``STRENGTHS`` that is best on
    the validation rows.
    """

    def __init__(self, features, targets, validation_features, validation_targets):
        self.scale = _Scale(features)
        self.mean = targets.mean(0)
        x = self.scale(features)
        gram, moments = x.T @ x, x.T @ (targets - self.mean)
        best = np.inf
        for strength in STRENGTHS:
            weights = np.linalg.solve(gram + strength * len(x) * np.eye(len(gram)), moments)
            predicted = self.scale(validation_features) @ weights + self.mean
            error = np.square(predicted - validation_targets).mean()
            if error < best:
                best, self.weights, self.strength = error, weights, strength

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return targets (N, K) of features (N, D)."""
        return self.scale(features) @ self.weights + self.mean


class MLP:
    """Two hidden layers on standardised features and targets, AdamW, stopped where validation is best.

    The same for the same ``seed``.
    """

    def __init__(self, features, targets, validation_features, validation_targets, seed: int = 0):
        self.scale, self.target_scale = _Scale(features), _Scale(targets)
        x, y, x_check, y_check = (
            torch.from_numpy(values.astype(np.float32))
            for values in (
                self.scale(features),
                self.target_scale(targets),
                self.scale(validation_features),
                self.target_scale(validation_targets),
            )
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(
                nn.Linear(x.shape[1], HIDDEN),
                nn.GELU(),
                nn.Linear(HIDDEN, HIDDEN),
                nn.GELU(),
                nn.Linear(HIDDEN, y.shape[1]),
            )
            self._fit(x, y, x_check, y_check)

    def _fit(self, x, y, x_check, y_check) -> None:
        optimiser = torch.optim.AdamW(self.net.parameters(), lr=1e-3, weight_decay=1e-2)
        best, waited, kept = np.inf, 0, None
        for _ in range(_EPOCHS):
            for rows in torch.randperm(len(x)).split(_BATCH):
                loss = (self.net(x[rows]) - y[rows]).square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            with torch.no_grad():
                error = float((self.net(x_check) - y_check).square().mean())
            if error < best:
                best, waited, kept = error, 0, copy.deepcopy(self.net.state_dict())
            else:
                waited += 1
                if waited >= _PATIENCE:
                    break
        if kept is not None:
            self.net.load_state_dict(kept)

    @torch.no_grad()
    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return targets (N, K) of features (N, D)."""
        scaled = self.net(torch.from_numpy(self.scale(features).astype(np.float32))).numpy()
        return self.target_scale.back(scaled)


class _Scale:
    """Mean 0 and standard deviation 1 over rows; what never changes becomes 0."""

    def __init__(self, rows: np.ndarray):
        self.mean, std = rows.mean(0), rows.std(0)
        self.std = np.where(std > 1e-8, std, 1.0)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return (rows - self.mean) / self.std

    def back(self, rows: np.ndarray) -> np.ndarray:
        return rows * self.std + self.mean
