"""Parity with the public reference: stored inputs, weights and outputs."""

import dataclasses

import numpy as np
import pytest
import torch

from world_model_ros.model.config import ImageSpec, ModelConfig
from world_model_ros.model.encoder import prepare_images
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.model.predictor import Predictor
from world_model_ros.model.sigreg import sigreg
from world_model_ros.training.loop import training_loss

pytestmark = pytest.mark.golden


def assert_close(actual, expected, tolerance=2e-5):
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance


@torch.no_grad()
def test_encoder_tokens_and_latents(golden):
    model, pixels = golden.model(), golden["a/in/pixels"]
    assert_close(model.encoder.tokens(pixels.flatten(0, 1)), golden["a/out/vit_last_hidden_state"])
    assert_close(model.encode(pixels), golden["a/out/emb"])
    assert_close(model.encode_actions(golden["a/in/action"]), golden["a/out/act_emb"])
    assert_close(model.encode(golden["a/in/goal"]), golden["a/out/goal_emb"])


@torch.no_grad()
def test_positions_are_interpolated_for_other_sizes(golden):
    model, pixels = golden.model(), golden["a/in/pixels_42x56"]
    assert_close(model.encoder.tokens(pixels.flatten(0, 1)), golden["a/out/vit_last_hidden_state_42x56"])
    assert_close(model.encode(pixels), golden["a/out/emb_42x56"])


@pytest.mark.parametrize("frames", [1, 2, 3])
@torch.no_grad()
def test_predict(golden, frames):
    model = golden.model()
    latents, actions = golden["a/out/emb"][:, :frames], golden["a/in/action"][:, :frames]
    conditions = model.predictor.conditions(golden["a/out/act_emb"][:, :frames])
    assert_close(model.predictor(latents, conditions), golden[f"a/out/predictor_T{frames}"])
    predicted = model.predict(latents, actions)
    assert_close(predicted, golden[f"a/out/predict_T{frames}"])


@pytest.mark.parametrize("frames", [1, 2, 3])
@torch.no_grad()
def test_predictor_of_another_width_than_the_latent(golden, frames):
    predictor = Predictor(dataclasses.replace(golden.config, predictor_width=24)).eval()
    predictor.load_state_dict(golden.group("b/sd/predictor."))
    conditions = predictor.conditions(golden["b/in/act_emb"][:, :frames])
    predicted = predictor(golden["b/in/emb"][:, :frames], conditions)
    assert_close(predicted, golden[f"b/out/predictor_T{frames}"])


@pytest.mark.parametrize("history", [1, 3])
@torch.no_grad()
def test_rollout_and_cost(golden, history):
    model = golden.model()
    latents = model.encode(golden["a/in/pixels"][:, -history:])
    past = golden["a/in/action_history"] if history == 3 else torch.zeros(2, 0, 10)
    imagined = model.rollout(latents, past, golden["a/in/action_candidates"])
    assert_close(imagined, golden[f"a/out/rollout_h{history}_predicted_emb"][:, :, history:])
    goal = model.encode(golden["a/in/goal"])
    cost = (imagined[:, :, -1] - goal).square().sum(-1)
    assert_close(cost, golden[f"a/out/rollout_h{history}_cost"], 1e-4)


def test_gradient_of_the_cost_with_respect_to_candidates(golden):
    model = golden.model()
    candidates = golden["a/in/action_candidates"].clone().requires_grad_()
    latents = model.encode(golden["a/in/pixels"][:, -1:])
    imagined = model.rollout(latents, torch.zeros(2, 0, 10), candidates)
    (imagined[:, :, -1] - model.encode(golden["a/in/goal"])).square().sum().backward()
    expected = golden["a/out/rollout_h1_cost_grad_candidates"]
    assert expected.abs().max() > 1e-3
    assert_close(candidates.grad, expected)


def test_image_preparation(golden):
    image = ImageSpec(28, resize="bilinear")
    prepared = prepare_images(golden["a/prep/uint8_hwc"].numpy(), image)
    assert_close(prepared, golden["a/prep/normalized"])
    prepared = prepare_images(golden["a/prep/uint8_40"].numpy(), image)
    assert_close(prepared, golden["a/prep/normalized_resized28"])


def test_training_step_with_all_gradients_and_buffers(golden):
    model = golden.model(train=True)
    blocks = golden["a/train/action"].nan_to_num()
    losses = training_loss(model, golden["a/train/pixels"], blocks, golden["a/train/sigreg_A"], weight=0.09)
    losses.total.backward()
    assert_close(losses.latents, golden["a/train/emb"])
    assert_close(losses.prediction, golden["a/train/pred_loss"])
    assert_close(losses.sigreg, golden["a/train/sigreg_loss"])
    assert_close(losses.total, golden["a/train/loss"])
    expected = golden.group("a/train/grad/")
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert set(gradients) == set(expected)
    for name, gradient in gradients.items():
        assert_close(gradient, expected[name])
    norm = torch.nn.utils.get_total_norm(list(gradients.values()))
    assert_close(norm, golden["a/train/grad_norm"])
    buffers = dict(model.named_buffers())
    for name, value in golden.group("a/train/buffers_after/").items():
        assert_close(buffers[name], value)


@pytest.mark.parametrize(("case", "knots"), [(0, 17), (1, 9)])
def test_sigreg_value_and_gradient(golden, case, knots):
    arrays = np.load(golden.folder / "sigreg.npz")
    latents = torch.from_numpy(arrays[f"{case}/emb_TBD"]).requires_grad_()
    value = sigreg(latents, torch.from_numpy(arrays[f"{case}/A_DP"]), knots)
    value.backward()
    assert_close(value, torch.from_numpy(arrays[f"{case}/value"]))
    assert_close(latents.grad, torch.from_numpy(arrays[f"{case}/grad_emb"]))


def test_full_model_has_the_published_tensors(golden):
    rows = (golden.folder / "lewm_state_dict.txt").read_text().splitlines()
    published = {key: shape for key, shape, *_ in (row.split("\t") for row in rows if row[0] != "#")}
    with torch.device("meta"):
        model = LeWorldModel(ModelConfig.full(10))
    state = model.state_dict()
    assert {key: str(tuple(value.shape)) for key, value in state.items()} == published
    assert len(state) == 303
    assert sum(parameter.numel() for parameter in model.parameters()) == 18_034_478
