import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import load_checkpoint, save_checkpoint
from world_model_ros.model.config import ModelConfig, read_spec
from world_model_ros.model.lewm import LeWorldModel

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path, tiny_model, tiny_spec):
    return save_checkpoint(tmp_path / "tiny", tiny_model, tiny_spec, "# tiny\n")


@torch.no_grad()
def test_what_is_saved_comes_back(folder, tiny_model, tiny_spec):
    model, spec = load_checkpoint(folder)
    assert spec == tiny_spec
    assert not model.training
    pixels = torch.randn(3, 3, 28, 28)
    assert torch.equal(model.encode(pixels), tiny_model.encode(pixels))
    assert {path.name for path in folder.iterdir()} == {"config.json", WEIGHTS, "card.md"}
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


@torch.no_grad()
def test_a_convolutional_model_comes_back(tmp_path, tiny_spec):
    config = dataclasses.replace(ModelConfig.small(10), channels=(8, 16), image_size=32)
    spec = dataclasses.replace(
        tiny_spec, model=config, image=dataclasses.replace(tiny_spec.image, size=32, resize="area")
    )
    original = LeWorldModel(config).eval()
    model, found = load_checkpoint(save_checkpoint(tmp_path / "conv", original, spec))
    assert found == spec
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model.encode(pixels), original.encode(pixels))


@torch.no_grad()
def test_half_precision_halves_the_file_and_keeps_the_statistics(tmp_path, tiny_model, tiny_spec, folder):
    tiny_model.projector.net[1].running_mean.fill_(1e-9)  # nothing to fp16
    half = save_checkpoint(tmp_path / "half", tiny_model, tiny_spec, dtype="float16")
    assert (half / WEIGHTS).stat().st_size < 0.65 * (folder / WEIGHTS).stat().st_size
    model, _ = load_checkpoint(half)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.projector.net[1].running_mean, tiny_model.projector.net[1].running_mean)
    pixels = torch.randn(3, 3, 28, 28)
    torch.testing.assert_close(model.encode(pixels), tiny_model.encode(pixels), rtol=0, atol=1e-2)


def test_saving_replaces_the_checkpoint_and_leaves_other_files(folder, tiny_model, tiny_spec):
    (folder / "evaluation.json").write_text("{}")
    changed = dataclasses.replace(tiny_spec, period=0.1)
    save_checkpoint(folder, tiny_model, changed)
    assert read_spec(folder).period == 0.1
    assert (folder / "evaluation.json").read_text() == "{}"
    assert not (folder / "card.md").exists()


def test_saving_does_not_overwrite_a_foreign_folder(tmp_path, tiny_model, tiny_spec):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="no checkpoint folder"):
        save_checkpoint(tmp_path, tiny_model, tiny_spec)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), "float32"), (1e6, "float16")])
def test_weights_that_cannot_be_stored_leave_the_old_checkpoint(folder, tiny_model, tiny_spec, value, dtype):
    before = (folder / WEIGHTS).read_bytes()
    with torch.no_grad():
        tiny_model.projector.net[0].weight[0, 0] = value
    with pytest.raises(UserError, match=r"projector\.net\.0\.weight"):
        save_checkpoint(folder, tiny_model, tiny_spec, dtype=dtype)
    assert (folder / WEIGHTS).read_bytes() == before


def change(folder, edit):
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("projector.net.0.weight"), r"projector\.net\.0\.weight is missing"),
        (lambda t: t.update(extra=torch.zeros(2)), "extra is unexpected"),
        (lambda t: t.update({"projector.net.0.bias": torch.zeros(3)}), r"shape \[3\].*\[64\]"),
        (lambda t: t.update({"projector.net.0.bias": torch.zeros(64, dtype=torch.int64)}), "type"),
        (lambda t: t["projector.net.0.bias"].fill_(torch.inf), "not finite"),
    ],
    ids=["missing", "unexpected", "wrong shape", "wrong type", "not finite"],
)
def test_tensors_that_do_not_fit_are_refused(folder, edit, message):
    change(folder, edit)
    with pytest.raises(UserError, match=message) as error:
        load_checkpoint(folder)
    assert str(folder / WEIGHTS) in str(error.value)


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "gone"])
def test_a_damaged_weights_file_is_refused(folder, damage):
    path = folder / WEIGHTS
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-100], "empty": b"", "garbage": b"x" * 1000, "gone": b""}[damage])
    if damage == "gone":
        path.unlink()
    with pytest.raises(UserError) as error:
        load_checkpoint(folder)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("predictor_depth", 10**9, "layers are not supported"),
        ("predictor_depth", 0, "predictor_depth must be positive"),
        ("patch_size", 5, "no multiple of patch_size"),
        ("encoder", "resnet", "neither vit nor conv"),
        ("latent_dim", 1024, "does not fit its config"),
    ],
)
def test_impossible_dimensions_are_refused(folder, field, value, message):
    path = folder / "config.json"
    values = json.loads(path.read_text())
    values["model"][field] = value
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=message):
        load_checkpoint(folder)
