"""Probes: small regressions from a representation to physical quantities (LeWM paper, probing of latents).

A linear probe measures what is linearly decodable, an MLP what is decodable at all. Both are fitted on some
rows, tuned on validation rows and tested on others.
"""

import copy
import warnings

import numpy as np

STRENGTHS = tuple(10.0**power for power in range(-4, 4))  # of the ridge, per training row
HIDDEN = 256
_EPOCHS = 150
_PATIENCE = 12  # epochs without a smaller validation error
_BATCH = 256
_PENALTY = 1.0  # L2, of the MLP; without it the error on other episodes is about twice as large


def correlation(true: np.ndarray, predicted: np.ndarray) -> float:
    """Return Pearson's r of (N, K), averaged over the K components, as the paper reports it.

    A component of ``predicted`` that does not vary counts 0.
    """
    from sklearn.feature_selection import r_regression

    pairs = zip(true.T, predicted.T, strict=True)
    return float(np.mean([r_regression(guess[:, None], truth) for truth, guess in pairs]))


class LinearProbe:
    """Ridge regression on standardised features, with the strength that has the smallest validation error.

    features (N, D), targets (N, K).
    """

    def __init__(self, features, targets, validation_features, validation_targets):
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        best = np.inf
        for strength in STRENGTHS:
            model = make_pipeline(StandardScaler(), Ridge(strength * len(features))).fit(features, targets)
            error = np.square(model.predict(validation_features) - validation_targets).mean()
            if error < best:
                best, self._model, self.strength = error, model, strength

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return targets (N, K) of features (N, D)."""
        return self._model.predict(features)


class MLPProbe:
    """Two hidden layers on standardised features and targets, stopped at the smallest validation error.

    features (N, D), targets (N, K). Deterministic for a ``seed``.
    """

    def __init__(self, features, targets, validation_features, validation_targets, seed: int = 0):
        from sklearn.neural_network import MLPRegressor
        from sklearn.preprocessing import StandardScaler

        self._features, self._targets = StandardScaler().fit(features), StandardScaler().fit(targets)
        x = self._features.transform(features).astype(np.float32)
        y = self._targets.transform(targets).astype(np.float32)
        net = MLPRegressor(
            hidden_layer_sizes=(HIDDEN, HIDDEN),
            batch_size=min(_BATCH, len(x)),
            alpha=_PENALTY,
            random_state=np.random.RandomState(seed),  # a plain seed would shuffle alike in every epoch
        )
        best, waited = np.inf, 0
        for _ in range(_EPOCHS):
            _fit_one_epoch(net, x, y)
            predicted = self._predict(net, validation_features)
            error = np.square((predicted - validation_targets) / self._targets.scale_).mean()
            if error < best:
                best, waited, self._net = error, 0, copy.deepcopy(net)
            elif (waited := waited + 1) == _PATIENCE:
                break

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return targets (N, K) of features (N, D)."""
        return self._predict(self._net, features)

    def _predict(self, net, features: np.ndarray) -> np.ndarray:
        predicted = net.predict(self._features.transform(features).astype(np.float32))
        return self._targets.inverse_transform(predicted.reshape(len(features), -1))


def _fit_one_epoch(net, x: np.ndarray, y: np.ndarray) -> None:
    """Fit one epoch; raise KeyboardInterrupt, which scikit-learn turns into a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Training interrupted by user")
        try:
            net.partial_fit(x, y if y.shape[1] > 1 else y.ravel())
        except UserWarning:
            raise KeyboardInterrupt from None
