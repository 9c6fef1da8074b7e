import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import load_checkpoint, save_checkpoint
from world_model_ros.model.config import read_spec
from world_model_ros.model.decoder import Decoder
from world_model_ros.model.lewm import LeWorldModel


@pytest.mark.parametrize(("size", "lead"), [(16, (3,)), (64, (2, 3)), (128, ())])
def test_pictures_have_the_shape_of_the_latents_before_them(size, lead):
    decoder = Decoder(8, size, 32)
    latents = 10 * torch.randn(*lead, 8)
    with torch.no_grad():
        decoded = decoder(latents)
    assert decoded.shape == (*lead, 3, size, size)
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    pictures = decoder.pictures(latents)
    assert pictures.shape == (*lead, size, size, 3)
    assert pictures.dtype == np.uint8
    assert np.abs(pictures / 255 - decoded.movedim(-3, -1).numpy()).max() < 0.51 / 255


def test_a_picture_says_something_of_its_latent():
    torch.manual_seed(0)
    one, other = Decoder(8, 32, 32).pictures(torch.randn(2, 8))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("width", range(32, 129, 8))
def test_every_width_that_a_config_may_have_makes_a_decoder(width):
    assert Decoder(8, 128, width).pictures(torch.zeros(8)).shape == (128, 128, 3)


@pytest.fixture
def decoding(tmp_path, tiny_spec):
    """A checkpoint with a decoder, and its model."""
    config = dataclasses.replace(tiny_spec.model, decoder_width=32, decoder_size=32)
    torch.manual_seed(0)
    model = LeWorldModel(config).eval()
    spec = dataclasses.replace(tiny_spec, model=config)
    return save_checkpoint(tmp_path / "decoding", model, spec, dtype="float16"), model


def test_a_decoder_comes_back_from_a_checkpoint(decoding):
    folder, model = decoding
    found, spec = load_checkpoint(folder)
    assert spec.model.decoder_size == found.decoder.size == 32
    latents = torch.randn(5, 16)
    torch.testing.assert_close(found.decoder(latents), model.decoder(latents), rtol=0, atol=5e-3)


def test_a_checkpoint_written_before_decoders_has_none(tmp_path, tiny_model, tiny_spec):
    folder = save_checkpoint(tmp_path / "old", tiny_model, tiny_spec)
    config = json.loads((folder / "config.json").read_text())
    del config["model"]["decoder_width"], config["model"]["decoder_size"]
    (folder / "config.json").write_text(json.dumps(config))
    assert load_checkpoint(folder)[0].decoder is None


def test_a_decoder_that_lacks_a_tensor_is_refused(decoding):
    folder, _ = decoding
    tensors = load_file(folder / "model.safetensors")
    del tensors["decoder.background"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"decoder\.background is missing"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("width", "size", "expected"),
    [
        (32, 0, "decoder_size 0 is none of 16"),
        (0, 64, "decoder_width 0 is no multiple of 8"),
        (36, 64, "decoder_width 36 is no multiple of 8"),
        (1 << 12, 64, "between 32 and 1024"),
        (32, 100, "decoder_size 100 is none of"),
        (-8, -64, "must not be negative"),
    ],
)
def test_a_decoder_that_cannot_be_is_refused(tmp_path, tiny_model, tiny_spec, width, size, expected):
    folder = save_checkpoint(tmp_path / "tiny", tiny_model, tiny_spec)
    config = json.loads((folder / "config.json").read_text())
    config["model"] |= {"decoder_width": width, "decoder_size": size}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=expected):
        read_spec(folder)
