"""The fast rollout equals the plain one; its packed weights and what is folded into them."""

import pytest
import torch
from torch import nn

from world_model_ros.model.config import ModelConfig
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.planning.fast_rollout import Dense, FastRollout, folded, packs


@pytest.fixture(scope="module", params=["small", "medium"])
def model(request):
    torch.manual_seed(0)
    model = LeWorldModel(getattr(ModelConfig, request.param)(10)).eval()
    for name, value in model.named_parameters():
        if not name.startswith("encoder"):
            nn.init.normal_(value, std=0.2)
    for name, value in model.named_buffers():  # of BatchNorm, far from doing nothing
        if name.endswith("running_mean"):
            value.normal_()
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0)
    return model.requires_grad_(False)


def inputs(batch, samples, context, horizon):
    torch.manual_seed(1)
    return (
        torch.randn(batch, context, 64),
        torch.randn(batch, context - 1, 10),
        torch.randn(batch, samples, horizon, 10),
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("context", [1, 2, 3, 5])
@pytest.mark.parametrize("horizon", [1, 2, 5])
@torch.no_grad()
def test_it_is_the_plain_rollout(model, packed, context, horizon):
    given = inputs(2, 40, context, horizon)
    rolled = FastRollout(model, packed=packed).rollout(*given)
    torch.testing.assert_close(rolled, model.rollout(*given), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("context", [1, 3])
@torch.no_grad()
def test_it_is_the_plain_rollout_at_full_size(context):
    torch.manual_seed(0)
    model = LeWorldModel(ModelConfig.full(10)).eval()
    for layer in model.predictor.transformer.layers:
        torch.nn.init.normal_(layer.adaLN_modulation[1].weight, std=0.02)
    inputs = torch.randn(1, context, 192), torch.randn(1, context - 1, 10), torch.randn(1, 4, 5, 10)
    torch.testing.assert_close(
        FastRollout(model).rollout(*inputs), model.rollout(*inputs), rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_bf16_is_near(model):
    given = inputs(1, 40, 3, 5)
    rolled, exact = FastRollout(model, torch.bfloat16, packed=True).rollout(*given), model.rollout(*given)
    assert rolled.dtype == torch.float32
    assert (rolled - exact).square().mean() < 0.02 * exact.square().mean()
    assert not torch.equal(rolled, exact)


@torch.no_grad()
def test_bf16_works_on_a_cpu_that_cannot_lay_it_out(model, monkeypatch):
    given = inputs(1, 40, 3, 5)
    plain = FastRollout(model, torch.bfloat16).rollout(*given)

    def refuse(*_):
        raise RuntimeError("bf16 path needs the cpu support avx_ne_convert or avx512bw")

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", refuse, raising=False)
    rolled = FastRollout(model, torch.bfloat16, packed=True).rollout(*given)
    assert (rolled - plain).square().mean() < 1e-4 * plain.square().mean()


def test_packed_weights_leave_gradients_to_the_others(model):
    latents, past, candidates = inputs(1, 3, 3, 2)
    gradients = []
    for packed in (False, True):
        with torch.no_grad():
            fast = FastRollout(model, packed=packed)
        blocks = candidates.clone().requires_grad_()
        fast.rollout(latents, past, blocks).square().sum().backward()
        gradients.append(blocks.grad)
    largest = float(gradients[0].abs().max())
    assert largest > 0
    # CPUs add up in different orders.
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.skipif(not packs(torch.float32), reason="this torch has no oneDNN")
@torch.no_grad()
def test_packed_layers_do_what_linear_ones_do():
    weight, bias, x = torch.randn(48, 24), torch.randn(48), torch.randn(2, 7, 24)
    dense = Dense(weight, bias, gelu=True, packed=True)
    assert dense.packed is not None
    torch.testing.assert_close(dense(x), nn.functional.gelu(x @ weight.T + bias), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_folding_joins_linear_layers_and_normalisation():
    layers = [nn.Linear(5, 7), nn.Linear(7, 9, bias=False), nn.BatchNorm1d(9).eval(), nn.GELU()]
    layers[2].running_mean.normal_()
    layers[2].running_var.uniform_(0.5, 2.0)
    x = torch.randn(11, 5)
    torch.testing.assert_close(Dense(*folded(layers))(x), nn.Sequential(*layers)(x), rtol=1e-5, atol=1e-5)
