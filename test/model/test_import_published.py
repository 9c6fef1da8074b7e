import json
import zipfile

import pytest
import torch

from world_model_ros.cli import main
from world_model_ros.errors import UserError
from world_model_ros.model import import_published
from world_model_ros.model.checkpoint import load_checkpoint

STATISTICS = {
    "names": ["x", "y"],
    "kind": "twist",
    "unit": "m/s",
    "mean": [0.0, 0.1],
    "std": [0.5, 0.5],
    "low": [-1, -1],
    "high": [1, 1],
}


def published_config(golden):
    return json.loads((golden.folder / "lewm_tiny.json").read_text())["config_a"]


def transformers_4_keys(golden):
    """Map new keys to old ones, as the table of the published checkpoints spells them."""
    rows = [r.split("\t") for r in (golden.folder / "lewm_state_dict.txt").read_text().splitlines()[2:]]
    return {new: new if old == "=" else old for new, _, _, old in rows}


@pytest.fixture
def published(tmp_path, golden):
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(published_config(golden)))
    torch.save(golden.group("a/sd/"), folder / "weights.pt")
    (tmp_path / "stats.json").write_text(json.dumps(STATISTICS))
    return folder


def command(published, **changes):
    options = {
        "action-stats": published.parent / "stats.json",
        "period": 0.1,
        "block": 5,
        "out": published.parent / "imported",
        **changes,
    }
    words = ["import-checkpoint", str(published)]
    for name, value in options.items():
        if value is not None:
            words += [f"--{name}", str(value)]
    return words


@pytest.mark.golden
@pytest.mark.parametrize("spelling", ["transformers 5", "transformers 4"])
@torch.no_grad()
def test_both_spellings_give_the_published_model(published, golden, spelling, capsys):
    if spelling == "transformers 4":
        old = transformers_4_keys(golden)
        state = {old[key]: value for key, value in golden.group("a/sd/").items()}
        assert "encoder.encoder.layer.0.output.dense.weight" in state
        torch.save(state, published / "weights.pt")
    assert main(command(published)) == 0
    out = published.parent / "imported"
    assert capsys.readouterr().out == f"checkpoint: {out}\n"
    model, spec = load_checkpoint(out)
    assert (model.encode(golden["a/in/pixels"]) - golden["a/out/emb"]).abs().max() <= 2e-5
    assert (spec.action.names, spec.period, spec.block) == (("x", "y"), 0.1, 5)
    assert (spec.image.size, spec.image.resize) == (28, "bilinear")


def compiled_parts(state):
    """Return the keys of a model whose encoder and predictor alone were compiled."""
    return {k.replace(".", "._orig_mod.", 1) if k[0] in "ep" else k: v for k, v in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
        lambda state: {f"module.{k}": v for k, v in state.items()},
        lambda state: {f"module._orig_mod.{k}": v for k, v in state.items()},
        lambda state: {"state_dict": {f"model.{k}": v for k, v in state.items()}, "epoch": 3},
        lambda state: {"state_dict": state},
        compiled_parts,
    ],
)
@torch.no_grad()
def test_what_trainers_put_before_the_names_or_around_the_weights_is_removed(published, golden, wrap):
    wrapped = wrap(golden.group("a/sd/"))
    assert wrapped.keys() != golden.group("a/sd/").keys()
    torch.save(wrapped, published / "weights.pt")
    model, _ = import_published.read_published(published)
    assert (model.encode(golden["a/in/pixels"]) - golden["a/out/emb"]).abs().max() <= 2e-5


def test_a_tensor_with_and_without_a_prefix_is_refused(published, golden):
    state = golden.group("a/sd/")
    name, value = next(iter(state.items()))
    torch.save({**state, f"_orig_mod.{name}": value}, published / "weights.pt")
    with pytest.raises(UserError, match="_orig_mod"):
        import_published.read_published(published)


@pytest.mark.parametrize("option", ["action-stats", "period", "block"])
def test_without_statistics_or_timing_nothing_is_imported(published, option, capsys):
    assert main(command(published, **{option: None})) == 2
    assert f"--{option} must be given, or --data" in capsys.readouterr().err
    assert not (published.parent / "imported").exists()


@pytest.mark.fault
@pytest.mark.parametrize("zipped", [True, False])
def test_fault_26_hostile_weights_are_refused_and_not_run(published, tmp_path, capsys, payload, zipped):
    marker = tmp_path / "marker"
    hostile = payload(marker)
    torch.save({"weights": hostile}, published / "weights.pt", _use_new_zipfile_serialization=zipped)
    assert main(command(published)) == 2
    error = capsys.readouterr().err
    assert "weights.pt is not a plain file of tensors" in error
    assert "Traceback" not in error
    assert not marker.exists()
    function, arguments = hostile.__reduce__()
    function(*arguments)
    assert marker.exists()  # the payload does work where it is run


@pytest.mark.fault
def test_fault_26_weights_whose_archive_is_compressed_are_not_unpacked(published, capsys):
    path = published / "weights.pt"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert torch.load(path, weights_only=True)  # torch would
    assert main(command(published)) == 2
    assert "it was not read (it has compressed parts)" in capsys.readouterr().err


@pytest.mark.fault
def test_fault_26_a_torch_that_would_run_what_weights_say_reads_none(published, capsys, monkeypatch):
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.5.1+cpu"))
    assert main(command(published)) == 2
    assert "torch 2.5.1+cpu may run what a file of weights says" in capsys.readouterr().err


@pytest.mark.fault
def test_fault_26_targets_in_the_configuration_are_never_followed(published, tmp_path):
    marker = tmp_path / "marker"
    config = json.loads((published / "config.json").read_text())
    config["_target_"] = config["encoder"]["_target_"] = "pathlib.Path.touch"
    config["encoder"]["self"] = str(marker)
    (published / "config.json").write_text(json.dumps(config))
    assert main(command(published)) == 0
    assert not marker.exists()


def edited(published, edit):
    config = json.loads((published / "config.json").read_text())
    edit(config)
    (published / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("predictor"), "no section 'predictor'"),
        (lambda c: c["predictor"].update(depth="${depth}"), "must be a number"),
        (lambda c: c["predictor"].update(depth=3), "does not fit its config"),
        (lambda c: c["encoder"].update(hidden_size=96), "does not fit its config"),
        (lambda c: c["pred_proj"].update(output_dim=8), "contradicts itself"),
        (lambda c: c["encoder"].update(patch_size=0), "impossible"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(published, edit, message):
    edited(published, edit)
    with pytest.raises(UserError, match=message):
        import_published.read_published(published)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([torch.zeros(1)], "flat dictionary"),
        ({"model": {"x": torch.zeros(1)}}, "flat dictionary"),
        ({"x": torch.zeros(1)}, "does not fit"),
    ],
)
def test_other_contents_are_refused(published, state, message):
    torch.save(state, published / "weights.pt")
    with pytest.raises(UserError, match=message):
        import_published.read_published(published)


def test_a_tensor_under_both_spellings_is_refused():
    twice = {
        "encoder.layers.0.mlp.fc1.bias": torch.zeros(1),
        "encoder.encoder.layer.0.intermediate.dense.bias": torch.ones(1),
    }
    with pytest.raises(UserError, match="two spellings"):
        import_published.respell(twice)


def test_the_published_names_respell_to_ours(golden):
    for new, old in transformers_4_keys(golden).items():
        assert list(import_published.respell({old: torch.zeros(1)})) == [new]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"std": None}, "missing"),
        ({"scale": [1]}, "unknown"),
        ({"mean": "0"}, "wrong type"),
        ({"names": [1, 2]}, "wrong type"),
        ({"std": [0.5, 0.0]}, "std must be positive"),
        ({"mean": [0.0]}, "differ in length"),
        ({"mean": [10**400, 0]}, "too large"),
        ({"names": ["x"], "mean": [0], "std": [1], "low": [-1], "high": [1]}, "block x action"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(published, change, message, capsys):
    values = {k: v for k, v in {**STATISTICS, **change}.items() if v is not None}
    path = published.parent / "stats.json"
    path.write_text(json.dumps(values))
    assert main(command(published)) == 2
    assert message in capsys.readouterr().err
    assert not (published.parent / "imported").exists()
