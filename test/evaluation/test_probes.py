import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score
from sklearn.neural_network import MLPRegressor

from world_model_ros.errors import UserError
from world_model_ros.evaluation.probes import LinearProbe, MLPProbe, correlation
from world_model_ros.evaluation.probing import open_loop, probe, quantities, straightness
from world_model_ros.sim.tasks.push import Push


def parts(x, y, fitted, checked):
    return x[:fitted], y[:fitted], x[fitted:checked], y[fitted:checked]


def test_correlation_by_hand():
    true = np.array([[1.0, 0.0], [2.0, 2.0], [3.0, 4.0]])
    # scale and offset do not matter, the sign does, a constant says nothing
    assert correlation(true, 5 - 2 * true) == pytest.approx(-1)
    assert correlation(true, true * [3.0, 0.0] + 7) == pytest.approx(0.5)


def test_linear_probe_recovers_a_linear_map():
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 2.0, (400, 8))
    x[:, 3] = 7.0  # a feature that never changes
    y = x @ rng.normal(size=(8, 2)) + np.array([5.0, -1.0])
    probed = LinearProbe(*parts(x, y, 200, 300))
    np.testing.assert_allclose(probed.predict(x[300:]), y[300:], atol=1e-2)


def test_linear_probe_chooses_its_strength_on_the_validation_rows():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(260, 100))
    noise = x[:, :1] * 0.3 + rng.normal(size=(260, 1))
    clear = x[:, :1]
    strong = LinearProbe(*parts(x, noise, 110, 200))
    weak = LinearProbe(*parts(x, clear, 110, 200))
    assert strong.strength > weak.strength


def test_mlp_finds_what_a_line_cannot():
    rng = np.random.default_rng(2)
    x = rng.uniform(-1, 1, (1500, 4))
    y = np.stack([x[:, 0] ** 2, np.abs(x[:, 1])], axis=1)
    data = parts(x, y, 1000, 1250)
    assert r2_score(y[1250:], LinearProbe(*data).predict(x[1250:])) < 0.1
    assert r2_score(y[1250:], MLPProbe(*data).predict(x[1250:])) > 0.9


def test_mlp_is_the_same_for_the_same_seed():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(300, 3)), rng.normal(size=(300, 1))
    data = parts(x, y, 200, 250)
    first = MLPProbe(*data, seed=4).predict(x)
    np.random.rand(7)
    assert np.array_equal(first, MLPProbe(*data, seed=4).predict(x))
    assert not np.array_equal(first, MLPProbe(*data, seed=5).predict(x))


def test_ctrl_c_ends_the_fit(monkeypatch):
    """scikit-learn makes a warning of it and goes on."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(MLPRegressor, "_backprop", interrupted)
    x, y = np.eye(30), np.eye(30)[:, :2]
    with pytest.raises(KeyboardInterrupt):
        MLPProbe(*parts(x, y, 20, 30))


def test_a_quantity_that_never_changes_is_refused():
    rows = np.random.default_rng(0).normal(size=(60, 4))
    still = {"end effector": np.ones((60, 2))}
    with pytest.raises(UserError, match="end effector never changes"):
        probe({"latent": rows}, {"end effector": rows[:, :2]}, np.arange(60) > 40, {"latent": rows}, still, 0)


def test_probes_find_what_is_planted_and_nothing_in_noise():
    rng = np.random.default_rng(5)
    states = rng.uniform(-1, 1, (1600, 5))
    states[:, 4] *= np.pi
    truth = quantities(Push.state_names, Push.probes, states)
    assert {name: values.shape[1] for name, values in truth.items()} == {
        "end effector": 2,
        "block position": 2,
        "block angle": 2,
    }
    planted = np.concatenate(list(truth.values()), axis=1) @ rng.normal(size=(6, 16))
    inputs = {"latent": planted, "noise": rng.normal(size=(1600, 16))}
    results, correlations, scatter = probe(
        {name: x[:1000] for name, x in inputs.items()},
        {name: y[:1000] for name, y in truth.items()},
        np.arange(1000) >= 800,
        {name: x[1000:] for name, x in inputs.items()},
        {name: y[1000:] for name, y in truth.items()},
        seed=0,
    )
    for kind in ("linear", "mlp"):
        assert all(value > 0.97 for value in results[kind]["latent"].values()), results
        assert all(abs(value) < 0.05 for value in results[kind]["noise"].values()), results
    assert all(value > 0.98 for value in correlations["latent"].values()), correlations
    assert all(abs(value) < 0.2 for value in correlations["noise"].values()), correlations
    angle = scatter["block angle"]
    error = np.abs((np.array(angle["true"]) - np.array(angle["predicted"]) + 180) % 360 - 180)
    assert len(error) == 300
    assert np.median(error) < 10


class Drift:
    """Imagines that every step adds the action; has one parameter, as a model does."""

    def __init__(self):
        self.weight = torch.zeros(1)

    def parameters(self):
        return iter([self.weight])

    def rollout(self, latents, history_actions, candidates):
        assert latents.shape[1] == 3
        assert history_actions.shape[1] == 2
        return latents[:, -1][:, None, None] + candidates.cumsum(2)


def test_open_loop_errors_by_hand():
    # the truth moves by the action plus 0.5, so imagination is off by 0.5 a step
    actions = [torch.ones(20, 2) for _ in range(3)]
    latents = [torch.arange(21.0)[:, None].repeat(1, 2) * 1.5 for _ in range(3)]
    found = open_loop(Drift(), latents, actions, history=3, steps=4)
    assert found["steps"] == [1, 2, 3, 4]
    assert found["error"] == pytest.approx([0.25 * k * k for k in (1, 2, 3, 4)])
    assert found["copy"] == pytest.approx([2.25 * k * k for k in (1, 2, 3, 4)])
    assert found["ratio"] == pytest.approx([1 / 9] * 4)


def test_open_loop_of_short_episodes_is_empty():
    assert open_loop(Drift(), [torch.zeros(6, 2)], [torch.zeros(5, 2)], 3, 4)["error"] == []


def test_straightness_of_a_line_a_corner_and_a_rest():
    line = np.outer(np.arange(5), [1.0, 2.0])
    corner = np.array([[0.0, 0], [1, 0], [1, 1]])
    always = np.ones(4, bool)
    assert straightness([line], [always]) == pytest.approx(1.0)
    assert straightness([corner], [always[:2]]) == pytest.approx(0.0)
    # a step that does not count takes both of its pairs with it
    assert straightness([corner, line], [np.array([True, False]), always]) == pytest.approx(1.0)
    assert np.isnan(straightness([np.zeros((4, 2))], [always[:3]]))
