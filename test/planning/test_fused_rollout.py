"""The rollout in fused kernels equals the plain one; what is done where they cannot be had."""

import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.config import ModelConfig, find_checkpoint
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.planning.config import PlannerConfig
from world_model_ros.planning.fast_rollout import FastRollout, for_planning
from world_model_ros.planning.planner import RecedingHorizonPlanner

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def random_model(size: str) -> LeWorldModel:
    """Return a model of that size whose every part does something, on the GPU if there is one."""
    torch.manual_seed(0)
    model = LeWorldModel(getattr(ModelConfig, size)(10)).eval().requires_grad_(False)
    for name, value in model.named_parameters():
        if not name.startswith("encoder"):
            nn.init.normal_(value, std=0.02 if "adaLN" in name else value.shape[-1] ** -0.5)
    for name, value in model.named_buffers():  # of BatchNorm, far from doing nothing
        if name.endswith("running_mean"):
            value.normal_()
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module", params=["small", "medium", "full"])
def both(request):
    """Return a model and its fused rollout, whose constructor compares them, too."""
    pytest.importorskip("triton")
    from world_model_ros.planning.fused_rollout import FusedRollout

    model = random_model(request.param)
    with torch.no_grad():
        return model, FusedRollout(model)


@pytest.mark.skipif(
    not (torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET")),
    reason="needs a GPU, or triton and TRITON_INTERPRET=1 (slow)",
)
@pytest.mark.parametrize("context", [1, 2, 3, 5])
@torch.inference_mode()
def test_it_is_the_plain_rollout(both, context):
    model, fused = both
    device = fused.positions.device
    for samples, horizon, problems in ((40, 1, 2), (300, 5, 1)):  # few candidates have smaller tiles
        inputs = (
            torch.randn(problems, context, model.config.latent_dim, device=device),
            torch.randn(problems, context - 1, 10, device=device),
            torch.randn(problems, samples, horizon, 10, device=device),
        )
        exact, rolled = model.rollout(*inputs), fused.rollout(*inputs)
        assert rolled.dtype == torch.float32
        assert (rolled - exact).abs().max() < 0.01 * exact.std()
        assert torch.equal(rolled, fused.rollout(*inputs))


@needs_gpu
def test_a_gradient_is_that_of_single_operations():
    model = random_model("small")
    inputs = torch.randn(1, 2, 64, device="cuda"), torch.randn(1, 1, 10, device="cuda")
    gradients = []
    for rollout in (for_planning(model, "fp16"), FastRollout(model)):
        candidates = torch.ones(1, 3, 2, 10, device="cuda", requires_grad=True)
        rollout.rollout(*inputs, candidates).square().sum().backward()
        gradients.append(candidates.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)


@needs_gpu
def test_kernels_that_compute_something_else_are_not_used(monkeypatch, caplog):
    from world_model_ros.planning import fused_rollout

    monkeypatch.setattr(fused_rollout, "_LARGEST_ERROR", 1e-9)
    assert isinstance(for_planning(random_model("small"), "fp16"), FastRollout)
    assert "their latents are off by" in caplog.text


@needs_gpu
@pytest.mark.fault
def test_without_the_kernels_it_is_done_in_single_operations(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "world_model_ros.planning.fused_rollout", None)
    assert isinstance(for_planning(random_model("small"), "fp16"), FastRollout)
    assert "the fused kernels for GPUs cannot be used" in caplog.text


@needs_gpu
def test_a_model_that_sees_more_frames_is_done_in_single_operations(caplog):
    model = LeWorldModel(replace(ModelConfig.small(10), history=4)).cuda().eval()
    assert isinstance(for_planning(model, "fp16"), FastRollout)
    assert "4 frames are more than 3" in caplog.text


@needs_gpu
@pytest.mark.parametrize("name", ["reach", "push"])
def test_a_planner_on_the_gpu_plans_as_in_fp32(name):
    model, spec = load_checkpoint(find_checkpoint(name))
    model = model.to("cuda")
    costs = []
    for precision in ("fp16", "fp32"):
        planner = RecedingHorizonPlanner(model, spec, PlannerConfig(precision=precision))
        latents = np.random.default_rng(0).normal(size=(2, spec.model.latent_dim)).astype(np.float32)
        planner.set_goal(latents[1])
        costs.append(planner.plan(latents[0], None, np.zeros(planner.shape)).predicted_distance)
    assert costs[0] == pytest.approx(costs[1], rel=0.05)


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(UserError, match="fp16 is for GPUs"):
        for_planning(LeWorldModel(ModelConfig.small(10)), "fp16")
