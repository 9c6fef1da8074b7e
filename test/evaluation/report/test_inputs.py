"""What the page is made from: which results count, and what bad ones say."""

import dataclasses
import json
import os
import sys
from datetime import datetime
from pathlib import Path

import pytest
import torch

from world_model_ros.errors import UserError
from world_model_ros.evaluation.report import pictures, report, sections
from world_model_ros.evaluation.report.inputs import Result, check_results, read_inputs
from world_model_ros.model.config import read_spec
from world_model_ros.planning.config import PlannerConfig

pytest.importorskip("matplotlib")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("broken.json", '{"protocol": "rand', "broken.json cannot be read"),
        ("bytes.json", b"\xff\xfe{", "bytes.json cannot be read"),
        ("random.json", '{"protocol": "random", "task": "reach"}', "random.json does not hold"),
        (
            "robustness.json",
            '{"protocol": "robustness", "perturbations": [1]}',
            "robustness.json does not hold",
        ),
        (
            "probing.json",
            '{"protocol": "probing", "probes": {"linear": {}}}',
            "probing.json does not hold",
        ),
        ("surprise.json", '{"protocol": "surprise", "scores": {}}', "surprise.json does not hold"),
    ],
)
def test_damaged_results_are_named(small, tmp_path, capsys, name, content, sentence, make):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert make(small, "--results", tmp_path, name="never.html") == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert not (small / "never.html").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--results", "/nowhere"], "no folder of results at /nowhere"),
        (["--run", "/nowhere"], "no metrics.jsonl in /nowhere"),
        (["--data", "/nowhere.h5", "--films", "0"], "no episode file at /nowhere.h5"),
        (["--films", "-1"], "--films must not be negative"),
        (["--out", "/nowhere/report.html"], "there is no folder /nowhere"),
        (["--out", "/tmp"], "is a folder"),
        (["--out", "/proc/report.html"], "nothing can be written in /proc"),
        (["--checkpoint", "/nowhere"], "no checkpoint at '/nowhere'"),
    ],
)
def test_bad_input_is_one_sentence(small, capsys, options, sentence, make):
    assert make(small, *options, name="never.html") == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


GOOD = {
    "random": {
        "success_rate": 0.5,
        "success_at_end": 0.5,
        "interval": [0.1, 0.9],
        "n": 2,
        "criteria": {"position": {"any": 0.5, "any_interval": [0.1, 0.9]}},
        "baselines": {"random": {"success_rate": None}},
        "problems": [{"index": 0, "seed": 1, "start": [0.5, 0.0], "goal": [0.4, 0.1]}],
        "outcomes": [{"index": 0, "success": True}],
        "planner": {"samples": 8, "replan_tolerance": None, "solver": "cem"},
    },
    "robustness": {"perturbations": {"noise": [{"success_rate": 0.5, "interval": [0.2, 0.7]}]}},
    "probing": {
        "probes": {"mlp": {"latent": {"x": 0.9}}},
        "open_loop": {"steps": [1], "error": [0.1], "copy": [1.0], "ratio": [0.1]},
    },
    "surprise": {"scores": {"normal": [1.0, None]}, "auroc": {"teleport": None}, "counts": {"teleport": 3}},
}


def result(protocol, **changes):
    values = {"protocol": protocol, **GOOD[protocol], **changes}
    return Result(Path("results/some.json"), values, datetime.now())


@pytest.mark.parametrize("protocol", GOOD)
def test_good_results_pass(protocol):
    check_results(result(protocol), None)
    pictures.read_script("reach", "x", result("random"))


@pytest.mark.parametrize(
    ("protocol", "changes", "said"),
    [
        ("random", {"success_rate": None}, "success_rate is None, not float"),
        ("random", {"n": "two"}, "n is 'two', not int"),
        ("random", {"interval": [0.1]}, r"interval is \[0.1\], not two numbers"),
        ("random", {"criteria": {"pose": 0.5}}, "criteria.pose is 0.5, not named values"),
        ("random", {"baselines": []}, r"baselines is \[\], not named values"),
        ("random", {"problems": [{"index": 0}]}, r"problems\[0\].seed is missing"),
        ("random", {"outcomes": [{"index": 0}]}, r"outcomes\[0\].success is missing"),
        ("random", {"planner": {"samples": "many"}}, "planner: "),
        ("robustness", {"perturbations": {"noise": [3]}}, r"perturbations.noise\[0\] is 3"),
        ("probing", {"probes": {"mlp": {"latent": 3}}}, "probes.mlp.latent is 3, not named values"),
        ("probing", {"probes": {"mlp": {}}}, "probes.mlp has no inputs"),
        ("probing", {"probes": {"mlp": {"a": {"x": 1}, "b": {}}}}, "probes.mlp has no inputs, or other"),
        ("probing", {"open_loop": {"steps": [1]}}, "open_loop.error is missing"),
        (
            "probing",
            {"open_loop": {"steps": [1, 2], "error": [0.1], "copy": [1.0], "ratio": [0.1]}},
            "the lists in open_loop differ in length",
        ),
        (
            "probing",
            {"scatter": {"tip": {"true": [[1.0, 2.0]], "predicted": [[1.0]]}}},
            "scatter.tip has true and predicted points that do not fit",
        ),
        ("surprise", {"scores": {"teleport": [1.0]}}, "scores.normal is missing"),
        ("surprise", {"example": {"step": 3}}, "example.first_frame is missing"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_by_name(protocol, changes, said):
    found = result(protocol, **changes)

    def read():
        check_results(found)
        pictures.read_script("reach", "x", found)

    with pytest.raises(UserError, match=rf"results/some.json does not hold what a report needs \({said}"):
        read()


def test_a_mistake_of_ours_is_not_blamed_on_a_file(small, tmp_path, monkeypatch, make):
    (tmp_path / "surprise.json").write_text(json.dumps({"protocol": "surprise", **GOOD["surprise"]}))

    def mistaken(*_):
        raise KeyError("of ours")

    monkeypatch.setattr(sections, "surprise", mistaken)
    with pytest.raises(KeyError, match="of ours"):
        make(small, "--results", tmp_path, name="never.html")


def test_a_damaged_line_of_metrics_is_named(small, tmp_path, capsys, make):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    assert make(small, "--run", tmp_path, name="never.html") == 2
    assert "metrics.jsonl is damaged in line 2" in capsys.readouterr().err


def test_results_of_another_checkpoint_are_left_out(small, tmp_path):
    spec = read_spec(small / "<b>bad & worse")
    spec.training.update(seed=1, minutes=2.5)
    for name, noted in (("same", {"seed": 1, "minutes": 2.5, "name": "x"}), ("other", {"seed": 2})):
        values = {"protocol": "lewm", "task": "reach", "checkpoint": noted}
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
    inputs = read_inputs(tmp_path, None, "reach", spec)
    assert [r.path.name for r in inputs.results] == ["same.json"]
    assert "other.json was measured on another checkpoint" in inputs.ignored[0]


def test_results_of_earlier_versions_are_read_under_the_names_of_today(small, tmp_path):
    old = {
        "knowledge": {"protocol": "knowledge", **GOOD["probing"]},
        "random": {"protocol": "random", **GOOD["random"], "floors": {"random": {"success_rate": 0.1}}},
    }
    del old["random"]["baselines"]
    old["random"]["planner"] = {
        "samples": 8,
        "widening": 2,
        "worth_moving": 0.5,
        "haste": 4.0,
        "tolerance": None,
        "doubt": 1.0,
        "sharpness": 2.0,
    }
    for name, values in old.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
    inputs = read_inputs(tmp_path, None, "reach", read_spec(small / "<b>bad & worse"))
    assert not inputs.ignored
    probing, random = inputs.best("probing"), inputs.best("random")
    check_results(probing, random)
    assert sections.success([random])[0]["any"].baselines == {"random": 0.1}
    assert pictures.read_script("reach", "x", random).settings.planner == PlannerConfig(
        samples=8,
        first_solve_multiplier=2,
        stand_still_margin=0.5,
        time_cost=4.0,
        ood_penalty=1.0,
        squared_distance_weight=2.0,
    )


def test_the_result_of_most_problems_comes_first(small, tmp_path):
    for name, n in (("a", 100), ("b", 200), ("c", 100)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"protocol": "lewm", "n": n}))
        os.utime(tmp_path / f"{name}.json", (ord(name), ord(name)))
    inputs = read_inputs(tmp_path, None, "push", read_spec(small / "<b>bad & worse"))
    assert [r.path.stem for r in inputs.all("lewm")] == ["b", "c", "a"]
    assert inputs.best("lewm").n == 200
    assert inputs.best("far") is None


def test_an_interrupt_leaves_no_page(small, monkeypatch, capsys, make):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "film_rollouts", interrupted)
    assert make(small, name="never.html") == 130
    assert not (small / "never.html").exists()


@pytest.mark.parametrize(("module", "package"), [("matplotlib.figure", "matplotlib"), ("jinja2", "Jinja2")])
def test_without_a_library_the_remedy_is_named(small, monkeypatch, capsys, make, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    assert make(small, name="never.html") == 2
    assert f"pip install {package}" in capsys.readouterr().err


@pytest.mark.parametrize(("lr", "kept"), [(1e-3, True), (2e-3, False)])
def test_curves_of_another_training_are_left_out(tmp_path, lr, kept, write_run):
    spec = dataclasses.replace(read_spec("models/reach"), training={"lr": 1e-3, "steps": 60})
    write_run(tmp_path / "run")
    identity = json.dumps({"settings": {"lr": lr, "steps": 60, "clip": 1.0}})
    torch.save({"identity": identity}, tmp_path / "run" / "state.pt")
    inputs = read_inputs(None, tmp_path / "run", "reach", spec)
    assert bool(inputs.metrics) == kept
    assert any("another training: lr 0.002, not 0.001" in words for words in inputs.ignored) != kept
