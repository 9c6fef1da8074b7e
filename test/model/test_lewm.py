import dataclasses

import pytest
import torch

from world_model_ros.model.config import ImageSpec, ModelConfig
from world_model_ros.model.encoder import prepare_images
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.model.sigreg import draw_directions, sigreg

SMALL = dataclasses.replace(ModelConfig.small(10), channels=(8, 16), image_size=32)


@pytest.fixture
def model():
    """A small model whose AdaLN is not zero, so that every part matters."""
    torch.manual_seed(1)
    model = LeWorldModel(SMALL).eval()
    for parameter in model.predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@torch.no_grad()
def test_prediction_is_causal(model):
    latents, actions = torch.randn(2, 3, 64), torch.randn(2, 3, 10)
    before = model.predict(latents, actions)
    latents[:, 2], actions[:, 2] = 9.0, 9.0
    after = model.predict(latents, actions)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2])


@pytest.mark.parametrize("context", [1, 2, 3, 5])
@torch.no_grad()
def test_rollout_is_repeated_prediction_over_a_window(model, context):
    batch, samples, horizon = 2, 3, 4
    latents, past = torch.randn(batch, context, 64), torch.randn(batch, context - 1, 10)
    candidates = torch.randn(batch, samples, horizon, 10)
    imagined = model.rollout(latents, past, candidates)
    assert imagined.shape == (batch, samples, horizon, 64)
    for b in range(batch):
        for s in range(samples):
            frames, actions = latents[b], torch.cat([past[b], candidates[b, s]])
            for _ in range(horizon):
                start = max(0, len(frames) - SMALL.history)
                window = frames[start:], actions[start : len(frames)]
                following = model.predict(window[0][None], window[1][None])[0, -1:]
                frames = torch.cat([frames, following])
            torch.testing.assert_close(imagined[b, s], frames[context:], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_every_executed_action_in_the_window_matters(model):
    latents, candidates = torch.randn(1, 3, 64), torch.randn(1, 2, 1, 10)
    past = torch.randn(1, 2, 10)
    reference = model.rollout(latents, past, candidates)
    for index in range(2):
        changed = past.clone()
        changed[:, index] += 1
        assert not torch.allclose(model.rollout(latents, changed, candidates), reference, atol=1e-4)


@pytest.mark.parametrize(("frames", "blocks"), [(4, 4), (3, 2), (0, 0)])
def test_predict_refuses_other_shapes(model, frames, blocks):
    with pytest.raises(ValueError, match="must agree"):
        model.predict(torch.randn(1, frames, 64), torch.randn(1, blocks, 10))


def test_rollout_refuses_a_history_that_does_not_fit(model):
    with pytest.raises(ValueError, match="history actions"):
        model.rollout(torch.randn(1, 2, 64), torch.randn(1, 2, 10), torch.randn(1, 2, 3, 10))


@torch.no_grad()
def test_latents_do_not_depend_on_the_batch(model):
    pixels = torch.randn(2, 3, 3, 32, 32)
    together = model.encode(pixels)
    assert together.shape == (2, 3, 64)
    torch.testing.assert_close(model.encode(pixels[1, 2]), together[1, 2], rtol=1e-4, atol=1e-5)


def test_encoder_refuses_another_size(model):
    with pytest.raises(ValueError, match="takes 32"):
        model.encode(torch.randn(1, 3, 64, 64))


def test_area_preparation_is_the_recorded_picture():
    frames = torch.randint(0, 256, (2, 48, 64, 3), dtype=torch.uint8).numpy()
    image = ImageSpec(16)
    prepared = prepare_images(frames, image)
    square = torch.from_numpy(frames[:, :, 8:56].astype("float32"))
    mean = square.reshape(2, 16, 3, 16, 3, 3).mean((2, 4)).permute(0, 3, 1, 2)
    shown = prepared * torch.tensor(image.std)[:, None, None] + torch.tensor(image.mean)[:, None, None]
    assert prepared.shape == (2, 3, 16, 16)
    assert (shown * 255 - mean).abs().max() <= 0.51  # pixels are whole numbers


@pytest.mark.parametrize("shape", [(4, 4, 3), (1, 4, 4, 4), (1, 0, 4, 3)])
def test_preparation_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="uint8"):
        prepare_images(torch.zeros(shape, dtype=torch.uint8).numpy(), ImageSpec(4))
    with pytest.raises(ValueError, match="float32"):
        prepare_images(torch.zeros(1, 4, 4, 3).numpy(), ImageSpec(4))


def plain_sigreg(latents, directions, knots):
    t = torch.linspace(0, 3, knots, dtype=latents.dtype)
    weights = torch.full_like(t, 6 / (knots - 1))
    weights[[0, -1]] /= 2
    phi = torch.exp(-(t**2) / 2)
    angles = (latents @ directions).unsqueeze(-1) * t
    error = (angles.cos().mean(1) - phi).square() + angles.sin().mean(1).square()
    return latents.shape[1] * (error * weights * phi).sum(-1).mean()


@pytest.mark.parametrize("knots", [2, 3, 17, 40])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_sigreg_is_the_plain_sum_over_the_knots(knots, scale):
    generator = torch.Generator().manual_seed(3)
    latents = (scale * torch.randn(3, 16, 8, generator=generator)).requires_grad_()
    directions = draw_directions(8, 20, generator)
    value = sigreg(latents, directions, knots)
    gradient = torch.autograd.grad(value, latents)[0]
    exact = latents.detach().double().requires_grad_()
    expected = plain_sigreg(exact, directions.double(), knots)
    expected_gradient = torch.autograd.grad(expected, exact)[0]
    torch.testing.assert_close(value.double(), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=2e-2, atol=2e-4)


def test_sigreg_stays_fp32_under_autocast():
    latents, directions = torch.randn(2, 64, 8), draw_directions(8, 32)
    with torch.autocast("cpu", torch.bfloat16):
        value = sigreg(latents, directions)
    assert value.dtype == torch.float32
    assert torch.equal(value, sigreg(latents, directions))


def test_sigreg_prefers_a_normal_to_a_collapse():
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(1, 512, 16, generator=generator)
    directions = draw_directions(16, 64, generator)
    assert sigreg(normal, directions) < 2
    assert sigreg(torch.zeros(1, 512, 16), directions) > 50
    line = normal[..., :1].expand(-1, -1, 16)
    assert sigreg(line, directions) > 20


def test_sigreg_needs_two_knots():
    with pytest.raises(ValueError, match="two knots"):
        sigreg(torch.zeros(1, 2, 3), torch.zeros(3, 1), knots=1)
