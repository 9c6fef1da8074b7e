import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from world_model_ros.cli import main
from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.config import ModelConfig
from world_model_ros.training.second_predictor import fit_member, member_error

SMALL = dataclasses.replace(
    ModelConfig.small(2), latent_dim=6, predictor_width=32, predictor_depth=1, predictor_mlp=32, dropout=0.0
)


def drifts(episodes, length, seed):
    """Latents that move by what their blocks say, the blocks, and the episodes' lengths."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randn(episodes, length, 2, generator=generator)
    moved = torch.cat([torch.zeros(episodes, 1, 2), 0.3 * blocks[:, :-1].cumsum(1)], dim=1)
    place = torch.randn(episodes, 1, 4, generator=generator).expand(-1, length, -1)
    return torch.cat([moved, place], -1).flatten(0, 1), blocks.flatten(0, 1), np.full(episodes, length)


def test_a_second_predictor_learns_the_next_latent():
    member = fit_member(SMALL, *drifts(200, 12, 0), steps=300)
    assert not member.training
    held_out = drifts(30, 12, 1)
    copied = float((held_out[0].unflatten(0, (30, 12)).diff(dim=1)[:, 2:]).square().mean())
    assert member_error(member, SMALL.history, *held_out) < 0.3 * copied


def test_equal_seeds_give_equal_second_predictors_and_leave_torchs_generator_alone():
    walked = drifts(20, 8, 0)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = fit_member(SMALL, *walked, steps=3, seed=5).state_dict()
    assert torch.equal(torch.rand(1), expected)
    again, other = (fit_member(SMALL, *walked, steps=3, seed=s).state_dict() for s in (5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_second_predictor_takes_episodes_of_any_length_but_not_too_short_ones():
    latents, blocks, _ = drifts(1, 12, 0)
    fit_member(SMALL, latents, blocks, np.array([3, 1, 8]), steps=2)
    with pytest.raises(UserError, match="episodes of 4 frames at least"):
        fit_member(SMALL, latents, blocks, np.array([3, 3, 3, 3]), steps=2)
    assert np.isnan(
        member_error(
            fit_member(SMALL, latents, blocks, np.array([12]), 1), 3, latents, blocks, np.array([3, 3])
        )
    )


def test_a_second_predictor_comes_later_and_changes_nothing_else(data, tmp_path, tiny, command):
    assert main(command(data, tmp_path, steps=4)) == 0
    bare, later = tmp_path / "out", tmp_path / "later"
    words = ["train-heads", "--data", str(data), "--checkpoint", str(bare), "--out", str(later)]
    assert main([*words, "--ensemble-steps", "3"]) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (bare, later))
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {name.split(".")[0] for name in after.keys() - before.keys()} == {"ensemble"}
    _, spec = load_checkpoint(later)
    card = (later / "card.md").read_text()
    assert card.startswith((bare / "card.md").read_text().rstrip())
    assert "## Ensemble, trained afterwards" in card
    assert spec.training["ensemble"]["command"].endswith("--ensemble-steps 3")
    assert spec.training["ensemble"]["command"] in card
    again = command(data, tmp_path / "again", steps=4, start=later)
    assert main(again) == 0
    assert not load_checkpoint(tmp_path / "again" / "out")[0].ensemble
