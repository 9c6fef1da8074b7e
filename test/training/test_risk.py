import numpy as np
import pytest
import torch

from world_model_ros.errors import UserError
from world_model_ros.training.risk import FALSE_ALARMS, event_in, fit_risk, risk_metrics


class Walking:
    """A world model that knows that the first number of a latent grows by the mean of the block."""

    def parameters(self):
        return iter([torch.zeros(1)])

    def rollout(self, latents, history_actions, candidates):
        way = candidates.mean(-1).cumsum(-1)
        out = latents[:, -1:, None].repeat(1, candidates.shape[1], candidates.shape[2], 1)
        out[..., 0] += way
        return out


def falls(episodes, length, seed):
    """Latents, blocks, whether something has fallen (beyond 2, for good), and lengths."""
    rng = np.random.default_rng(seed)
    blocks = rng.uniform(-0.2, 0.6, (episodes, 1, 2)) + rng.normal(0, 0.1, (episodes, length, 2))
    way = np.concatenate([np.zeros((episodes, 1)), blocks.mean(-1)[:, :-1].cumsum(1)], 1)
    way += rng.uniform(-1, 1, (episodes, 1))
    latents = rng.normal(size=(episodes, length, 4))
    latents[..., 0] = way
    happened = np.maximum.accumulate(way > 2, axis=1)
    parts = (latents.reshape(-1, 4), blocks.reshape(-1, 2))
    tensors = [torch.from_numpy(part).float() for part in parts]
    return *tensors, torch.from_numpy(happened.reshape(-1)), np.full(episodes, length)


def test_risk_tells_whether_the_event_has_happened_and_foresees_it_in_what_is_imagined():
    data = falls(300, 12, 0)
    head = fit_risk(Walking(), 3, *data, steps=500)
    probe = torch.zeros(2, 4)
    probe[:, 0] = torch.tensor([1.0, 3.0])
    assert head(probe).tolist() == pytest.approx([0, 1], abs=0.1)
    threshold, metrics = risk_metrics(head, Walking(), 3, *falls(100, 12, 1))
    assert 0.2 <= threshold < 1
    assert metrics["risk_foreseen"] > 0.9
    assert metrics["risk_false_alarms"] == pytest.approx(FALSE_ALARMS, abs=0.01)


def test_an_event_that_passes_again_counts_among_those_that_came():
    class Certain(torch.nn.Module):
        def forward(self, imagined):
            return imagined[..., 0]

    latents, happened = torch.zeros(10, 7, 4), torch.zeros(10, 7, dtype=torch.bool)
    latents[:5, :, 0] = 1.0
    happened[:5, 4] = True  # within the imagined steps, and no more at their end
    data = latents.flatten(0, 1), torch.zeros(70, 2), happened.flatten(), np.full(10, 7)
    threshold, metrics = risk_metrics(Certain(), Walking(), 2, *data)
    assert threshold == 0.2  # the least one: nothing without the event is probable
    assert metrics == {"risk_false_alarms": 0.0, "risk_foreseen": 1.0}


def test_an_event_that_never_happens_cannot_be_learned():
    latents, blocks, happened, lengths = falls(5, 12, 0)
    with pytest.raises(UserError, match="never happens"):
        fit_risk(Walking(), 3, latents, blocks, happened & False, lengths, steps=1)


@pytest.mark.parametrize(
    ("event", "expected"), [("z < 0.5", [True, False]), (" z>0.5 ", [False, True]), ("x > -1", [True, True])]
)
def test_an_event_is_a_bound_of_a_state(event, expected):
    states = np.array([[0.0, 0.2], [0.0, 0.7]])
    assert event_in(states, ["x", "z"], event).tolist() == expected


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        ("z <= 0.5", "not of the form"),
        ("z < up", "not of the form"),
        ("w < 1", "no stored state 'w', only x, z"),
    ],
)
def test_another_event_is_refused(event, sentence):
    with pytest.raises(UserError, match=sentence):
        event_in(np.zeros((1, 2)), ["x", "z"], event)
