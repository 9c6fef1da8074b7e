"""The published solver against the reference's own solve (test/golden/README.md)."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from world_model_ros.model.config import ModelConfig
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.planning.cem import CEM
from world_model_ros.planning.objective import GoalDistance

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@pytest.fixture(scope="module")
def golden():
    arrays = np.load(GOLDEN / "lewm_tiny.npz")
    return {name: torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith("a/")}


@pytest.fixture(scope="module")
def model(golden):
    published = json.loads((GOLDEN / "lewm_tiny.json").read_text())["config_a"]
    vit, predictor = published["encoder"], published["predictor"]
    config = dataclasses.replace(
        ModelConfig.full(10),
        image_size=vit["image_size"],
        latent_dim=predictor["output_dim"],
        encoder_width=vit["hidden_size"],
        encoder_depth=vit["num_hidden_layers"],
        encoder_heads=vit["num_attention_heads"],
        encoder_mlp=vit["intermediate_size"],
        projector_hidden=published["projector"]["hidden_dim"],
        action_hidden=4 * published["action_encoder"]["emb_dim"],
        predictor_width=predictor["hidden_dim"],
        predictor_depth=predictor["depth"],
        predictor_heads=predictor["heads"],
        predictor_head_dim=predictor["dim_head"],
        predictor_mlp=predictor["mlp_dim"],
        dropout=0.0,
    )
    model = LeWorldModel(config)
    model.load_state_dict({k.removeprefix("a/sd/"): v for k, v in golden.items() if k.startswith("a/sd/")})
    return model.eval()


@pytest.mark.golden
def test_a_whole_published_solve_is_the_references(golden, model):
    with torch.inference_mode():
        latents = model.encode(golden["a/in/pixels"][:, -1:])
        goal = model.encode(golden["a/in/goal"])[:, 0]
    objective = GoalDistance(model, latents, latents.new_zeros(2, 0, 10), goal)
    draws = iter(golden["a/cem/noise"].unbind(1))
    costs = []

    def cost(candidates):
        costs.append(objective(candidates))
        return costs[-1]

    solver = CEM.published(samples=32, elites=6, iterations=4)
    solution = solver.solve(cost, torch.zeros(2, 5, 10), draws.__next__)
    expected = golden["a/cem/costs"]
    assert (torch.stack(costs, 1) - expected).abs().max() < 1e-4
    elites = torch.stack(costs, 1).topk(6, dim=-1, largest=False).indices
    assert torch.equal(elites, golden["a/cem/topk_inds"].long())
    assert (solution.actions - golden["a/cem/actions"]).abs().max() < 2e-5
    assert (solution.std - golden["a/cem/final_std"]).abs().max() < 2e-5
    assert (solution.cost - golden["a/cem/elite_mean_cost"]).abs().max() < 1e-4
