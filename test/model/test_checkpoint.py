import dataclasses
import json
import math
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from world_model_ros.data.inspect import describe_checkpoint
from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import load_checkpoint, save_checkpoint
from world_model_ros.model.config import LightRange, ModelConfig, read_spec
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


LIGHT = LightRange((98.0, 0.3, 0.3, 0.3), (114.0, 0.33, 0.33, 0.34), (130.0, 0.36, 0.36, 0.36))


def test_the_light_of_the_training_comes_back_and_checkpoints_without_it_load(
    tmp_path, tiny_model, tiny_spec
):
    lit = save_checkpoint(tmp_path / "lit", tiny_model, dataclasses.replace(tiny_spec, light=LIGHT))
    assert read_spec(lit).light == LIGHT
    config = json.loads((lit / "config.json").read_text())
    del config["light"]  # as checkpoints were written before
    (lit / "config.json").write_text(json.dumps(config))
    assert read_spec(lit).light == LightRange()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"low": (98.0,)}, "four numbers each in low, mean and high"),
        ({"high": (300.0, 0.36, 0.36, 0.36)}, "0 <= low <= mean <= high"),
        ({"low": (120.0, 0.3, 0.3, 0.3)}, "0 <= low <= mean <= high"),
        ({"mean": (math.nan, 0.33, 0.33, 0.34)}, "0 <= low <= mean <= high"),
    ],
)
def test_a_light_that_cannot_be_is_refused(tiny_spec, change, expected):
    with pytest.raises(UserError, match=expected):
        dataclasses.replace(tiny_spec, light=dataclasses.replace(LIGHT, **change)).validate()


@torch.no_grad()
@pytest.fixture
def mapped(tmp_path, tiny_spec):
    """Return a checkpoint with three landmarks, in half precision."""
    sizes = dataclasses.replace(tiny_spec.model, temporal_hidden=8, landmarks=3)
    model = LeWorldModel(sizes).eval()
    model.landmarks.latents.copy_(torch.arange(48.0).view(3, 16) / 8)
    model.landmarks.edges[0, 1] = 1.5
    spec = dataclasses.replace(tiny_spec, model=sizes)
    return save_checkpoint(tmp_path / "mapped", model, spec, dtype="float16")


def test_landmarks_come_back_and_checkpoints_without_them_load(mapped, folder):
    landmarks = load_checkpoint(mapped)[0].landmarks
    assert torch.equal(landmarks.latents, torch.arange(48.0).view(3, 16) / 8)
    assert landmarks.edges.tolist() == [[0, 1.5, 0], [0, 0, 0], [0, 0, 0]]
    assert landmarks.edges.dtype == torch.float32
    config = json.loads((folder / "config.json").read_text())
    del config["model"]["landmarks"]  # as checkpoints were written before
    (folder / "config.json").write_text(json.dumps(config))
    assert load_checkpoint(folder)[0].landmarks is None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("landmarks.edges"), r"landmarks\.edges is missing"),
        (lambda t: t.update({"landmarks.edges": torch.zeros(2, 3)}), r"landmarks\.edges has shape \[2, 3\]"),
        (
            lambda t: t.update({"landmarks.latents": torch.zeros(3, 5)}),
            r"landmarks\.latents has shape \[3, 5\]",
        ),
        (lambda t: t["landmarks.edges"].fill_(-1), r"landmarks\.edges has negative lengths"),
        (lambda t: t["landmarks.latents"].fill_(torch.nan), r"landmarks\.latents is not finite"),
    ],
    ids=["missing", "edges", "latents", "negative", "not finite"],
)
def test_broken_landmarks_are_refused_in_one_sentence(mapped, edit, message):
    change(mapped, edit)
    with pytest.raises(UserError, match=message) as error:
        load_checkpoint(mapped)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"landmarks": 3}, "model.landmarks need the temporal-distance head"),
        ({"landmarks": -1}, "model.landmarks must not be negative"),
        ({"landmarks": 1 << 15, "temporal_hidden": 8}, "model.landmarks 32768 is above 1024"),
    ],
)
def test_impossible_numbers_of_landmarks_are_refused(tiny_spec, sizes, message):
    spec = dataclasses.replace(tiny_spec, model=dataclasses.replace(tiny_spec.model, **sizes))
    with pytest.raises(UserError, match=message):
        spec.validate()


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


@pytest.mark.fault
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("projector.net.0.weight"), r"projector\.net\.0\.weight is missing"),
        (lambda t: t.update(extra=torch.zeros(2)), "extra is unexpected"),
        (lambda t: t.update({"projector.net.0.bias": torch.zeros(3)}), r"shape \[3\].*\[64\]"),
        (lambda t: t.update({"projector.net.0.bias": torch.zeros(64, dtype=torch.int64)}), "type"),
        (lambda t: t.update({"projector.net.0.bias": torch.zeros(64).to(torch.float8_e5m2)}), "type"),
        (lambda t: t.update({"projector.net.0.bias": torch.zeros(64, dtype=torch.complex64)}), "type"),
        (lambda t: t["projector.net.0.bias"].fill_(torch.inf), "not finite"),
        (lambda t: t.update(extra=torch.zeros(1 << 20)), "too many"),
    ],
    ids=["missing", "unexpected", "wrong shape", "integer", "eight bits", "complex", "not finite", "large"],
)
def test_fault_24_tensors_that_do_not_fit_are_refused(folder, edit, message):
    change(folder, edit)
    with pytest.raises(UserError, match=message) as error:
        load_checkpoint(folder)
    assert str(folder / WEIGHTS) in str(error.value)


@pytest.mark.fault
@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "gone"])
def test_fault_24_a_damaged_weights_file_is_refused(folder, damage):
    path = folder / WEIGHTS
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-100], "empty": b"", "garbage": b"x" * 1000, "gone": b""}[damage])
    if damage == "gone":
        path.unlink()
    with pytest.raises(UserError) as error:
        load_checkpoint(folder)
    assert str(path) in str(error.value)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is missing"),
        (b"", "cannot be read"),
        (b'{"model": {', "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"9" * 10_000, "cannot be read"),
        (b" " * (2 << 20) + b"{}", "more than"),
        (b"[]", "must be an object"),
        (b"{}", "missing"),
        (b'{"_target_": "os.system"}', "import-checkpoint"),
    ],
    ids=["gone", "empty", "cut", "bytes", "nested", "digits", "long", "list", "nothing", "hydra"],
)
def test_fault_24_a_damaged_configuration_is_refused(folder, text, message):
    path = folder / "config.json"
    path.unlink() if text is None else path.write_bytes(text)
    with pytest.raises(UserError, match=message) as error:
        load_checkpoint(folder)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 2000


@pytest.mark.fault
def test_fault_24_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="no checkpoint at .*nowhere"):
        load_checkpoint(tmp_path / "nowhere")


def edited(folder, edit):
    """Change config.json."""
    path = folder / "config.json"
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))
    return folder


@pytest.mark.fault
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["action"].pop("std"), r"missing \['std'\]"),
        (lambda c: c["action"].update(std=[0.0, 1.0]), "std must be positive"),
        (lambda c: c["action"].update(std=[float("nan"), 1.0]), "must be finite"),
        (lambda c: c["action"].update(mean=[10**400, 1.0]), "too large"),
        (lambda c: c["action"].update(names=["linear_x"]), "differ in length"),
        (lambda c: c["action"].update(names=["linear_x", "linear_x"]), "not all different"),
        (lambda c: c["action"].update(low=[0.4, -0.4], high=[-0.4, 0.4]), "is not below"),
        (lambda c: c["action"].update(kind="Joint velocity"), "must be a word"),
        (lambda c: c.update(block=4), "block x action names is 4 x 2"),
        (lambda c: c.update(period=10**400), "too large"),
        (lambda c: c.update(period=1e-300), "period 1e-300 s"),
        (lambda c: c.update(period=float("nan")), "period nan s"),
        (lambda c: c["image"].update(mean=[0.5]), "three finite numbers"),
        (lambda c: c["image"].update(std=[0.0, 1.0, 1.0]), "image std must be positive"),
        (lambda c: c["thresholds"].update(surprise=float("nan")), "threshold surprise is nan"),
        (lambda c: c["thresholds"].update(norm_low=9.0, norm_high=7.0), "above norm_high"),
    ],
)
def test_fault_25_a_configuration_that_contradicts_itself_is_refused(folder, edit, message):
    with pytest.raises(UserError, match=message):
        load_checkpoint(edited(folder, edit))


@pytest.mark.parametrize("kind", ["device", "pipe", "folder"])
def test_weights_that_are_no_file_are_refused(folder, kind):
    path = folder / WEIGHTS
    path.unlink()
    if kind == "device":
        path.symlink_to("/dev/zero")
    else:
        (os.mkfifo if kind == "pipe" else os.mkdir)(path)
    with pytest.raises(UserError, match="is no file: copy the whole checkpoint folder"):
        load_checkpoint(folder)


def test_a_loaded_model_stays_as_it_is_when_its_file_is_written_over(folder):
    model, _ = load_checkpoint(folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = folder / WEIGHTS
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "module._orig_mod."])
def test_prefixes_of_compilers_and_trainers_are_removed(folder, prefix):
    model, _ = load_checkpoint(folder)
    tensors = load_file(folder / WEIGHTS)
    save_file({f"{prefix}{name}": value for name, value in tensors.items()}, folder / WEIGHTS)
    again, _ = load_checkpoint(folder)
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=0)


@pytest.mark.fault
@pytest.mark.parametrize("name", [WEIGHTS, "weights.pt", "config.json", "card.md", "__init__.py"])
def test_fault_26_a_pickle_in_a_checkpoint_folder_is_never_run(folder, tmp_path, payload, name):
    marker = tmp_path / "marker"
    hostile = pickle.dumps(payload(marker))
    (folder / name).write_bytes(hostile)
    if name in (WEIGHTS, "config.json"):
        with pytest.raises(UserError, match="cannot be read"):
            load_checkpoint(folder)
    else:
        load_checkpoint(folder)
    describe = describe_checkpoint if name != "config.json" else str
    assert describe(folder)
    assert not marker.exists()
    pickle.loads(hostile)
    assert marker.exists()  # the payload does work where it is run


@pytest.mark.fault
@pytest.mark.parametrize("where", [(), ("model",), ("action",), ("training",)])
def test_fault_26_a_target_in_a_configuration_is_never_followed(folder, tmp_path, where):
    marker = tmp_path / "marker"

    def edit(values):
        for name in where:
            values = values[name]
        values.update(_target_="pathlib.Path.touch", self=str(marker))

    edited(folder, edit)
    if where == ("training",):  # what people note there is data, and stays data
        load_checkpoint(folder)
    else:
        with pytest.raises(UserError):
            load_checkpoint(folder)
    assert not marker.exists()


@pytest.mark.parametrize("card", [b"\xff\xfe broken", b"x" * 10**7])
def test_whatever_the_card_holds_a_checkpoint_is_described(folder, card):
    (folder / "card.md").write_bytes(card)
    assert len(describe_checkpoint(folder)) < 200_000


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("latent_dim", 10**30, "latent_dim is above"),
        ("image_size", 2**16, "images above"),
        ("channels", [8] * 1000, "not supported"),
        ("channels", [2**40], "a number above"),
        ("predictor_depth", 10**9, "layers are not supported"),
        ("predictor_depth", 0, "predictor_depth must be positive"),
        ("patch_size", 5, "no multiple of patch_size"),
        ("encoder", "resnet", "neither vit nor conv"),
        ("latent_dim", 1024, "does not fit its config"),
    ],
)
def test_impossible_dimensions_are_refused(folder, field, value, message):
    edited(folder, lambda values: values["model"].update({field: value}))
    with pytest.raises(UserError, match=message):
        load_checkpoint(folder)


def test_what_older_checkpoints_note_under_other_names_is_read():
    readiness = read_spec("models/push").training["readiness"]
    assert readiness["ready"] is True
    assert readiness["verdict"].startswith("ready to plan with: cost spread")
