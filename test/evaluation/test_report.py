import dataclasses
import json
import os
import re
import shutil
import sys
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from world_model_ros.cli import main
from world_model_ros.evaluation.problems import make_problems
from world_model_ros.evaluation.report import imagination, page, plots, report, rollouts
from world_model_ros.evaluation.report.inputs import Result, read_inputs
from world_model_ros.model.config import read_spec
from world_model_ros.sim.worlds import make_world

pytest.importorskip("matplotlib")

HOSTILE = "<script>alert('x')</script>&\""
LARGEST = 8e6  # bytes


class Page(HTMLParser):
    """What a browser would load, the ids, the visible words; fails on tags that do not match."""

    VOID = {"meta", "img", "source", "br"}

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.ids, self.tags, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes, closed=False):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "srcset", "href", "xlink:href", "poster", "data", "action"):
                self.loads.append(value)
            if name == "id":
                self.ids.append(value)
            if name == "style":
                self.loads += re.findall(r"url\(([^)]*)\)", value)
        if tag not in self.VOID and not closed:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes, closed=True)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.loads += re.findall(r"url\(([^)]*)\)|@import (\S+)", data)
        self.words.append(data)


@pytest.fixture(scope="module")
def small(checkpoint, tmp_path_factory):
    """Everything short: few frames to look up, a checkpoint with random weights in a badly named folder."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(checkpoint, folder / "<b>bad & worse")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imagination, "BANK", 42)
        patch.setattr(rollouts, "SIZE", 64)
        yield folder


def write_results(folder):
    """Write results of every protocol as `evaluate --json` does, with names out of the hands of an enemy."""
    world = make_world("reach")
    problems = [p.__dict__ for p in make_problems(world, 5, 0)]
    world.close()
    rng = np.random.default_rng(0)
    points = rng.uniform(0.3, 0.6, (40, 2))
    closed = {
        "task": "reach",
        "n": 5,
        "seed": 0,
        "success_rate": 0.8,
        "interval": [0.38, 0.96],
        "success_at_end": 0.6,
        "interval_at_end": [0.23, 0.88],
        "criteria": {
            "position": {"any": 0.8, "any_interval": [0.38, 0.96], "end": 0.6, "end_interval": [0.23, 0.88]},
            HOSTILE: {"any": 1.0, "any_interval": [0.57, 1.0], "end": 0.0, "end_interval": [0.0, 0.43]},
        },
        "floors": {
            "random": {
                "success_rate": 0.2,
                "success_at_end": 0.0,
                "criteria": {"position": {"any": 0.2, "end": 0.0}},
            },
            HOSTILE: {"success_rate": 0.0, "success_at_end": 0.0},
        },
        "planning_ms": {"p50": 12.0, "p95": float("nan")},
        "budget": 10,
        "pipelined": True,
        "planner": {"samples": 8, "elites": 2, "iterations": 1, "horizon": 2},
        "problems": problems,
        "outcomes": [{"index": i, "success": i < 4} for i in range(5)],
        "commit": HOSTILE,
    }
    probes = {name: {"end effector": value} for name, value in (("latent", 0.9), ("pixels", -0.3))}
    scores = {kind: rng.lognormal(size=60).tolist() for kind in ("normal", "teleport", HOSTILE)}
    files = {
        "random": {"protocol": "random", **closed},
        "lewm": {"protocol": "lewm", **closed},
        "far": {"protocol": "far", **closed},
        "robustness": {
            "protocol": "robustness",
            "task": "reach",
            "perturbations": {
                HOSTILE: {"level": HOSTILE, "n": 10, "success_rate": 0.5, "interval": [0.24, 0.76]},
                "noise": {
                    "level": 0.1,
                    "n": 10,
                    "success_rate": 0.1,
                    "of_clean": None,
                    "drift": float("nan"),
                },
            },
        },
        "knowledge": {
            "protocol": "knowledge",
            "task": "reach",
            "probes": {"linear": probes, "mlp": probes},
            "scatter": {"end effector": {"true": points.tolist(), "predicted": (points + 0.01).tolist()}},
            "open_loop": {"steps": [1, 2], "error": [0.1, 0.2], "copy": [1.0, 1.5], "ratio": [0.1, 0.13]},
        },
        "surprise": {
            "protocol": "surprise",
            "task": "reach",
            "auroc": {"teleport": 0.9, HOSTILE: float("nan")},
            "threshold": 3.0,
            "false_alarms": {"steps": 60, "alarms": 1},
            "detected": {"teleport": 0.5},
            "medians": {"normal": 1.0, "teleport": 2.0},
            "scores": scores,
            "example": {
                "kind": HOSTILE,
                "seed": [900_000_000, 0],
                "step": 9,
                "first_frame": 3,
                "scores": rng.lognormal(size=18).tolist(),
            },
        },
    }
    folder.mkdir()
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    (folder / f"{HOSTILE.replace('/', '')}.json").write_text("[]")
    (folder / "other.json").write_text(json.dumps({"protocol": "random", "task": HOSTILE}))


def write_run(folder):
    folder.mkdir()
    figures = {"prediction": 0.1, "copy": 1.0, "ratio": 0.1, "effective_rank": 9.0, "latent_std": 1.0}
    lines = []
    for step in (20, 40, 60):
        lines.append({"step": step, "sigreg": 2.0, "lr": 1e-3, **figures})
        lines.append({"step": step, "validation": figures})
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 80, "pred')


def make(folder, *options, name="report.html"):
    words = ["report", "--checkpoint", str(folder / "<b>bad & worse"), "--task", "reach", "--out"]
    return main([*words, str(folder / name), *map(str, options)])


@pytest.fixture(scope="module")
def full(small):
    """The page with every input."""
    write_results(small / "results")
    write_run(small / "run")
    assert make(small, "--results", small / "results", "--run", small / "run", "--films", 1) == 0
    return (small / "report.html").read_text()


@pytest.fixture(scope="module")
def bare(small):
    """The page of a checkpoint alone."""
    assert make(small, "--films", 0, name="bare.html") == 0
    return (small / "bare.html").read_text()


LIVE = {"rollouts", "imagination", "open-loop"}
SECTIONS = LIVE | {"success", "knowledge", "surprise", "robustness", "learning"}


def test_page_needs_no_network_and_is_well_formed(full):
    read = Page(full)
    assert len(read.loads) > 30
    for load in read.loads:
        assert load.startswith(("data:image/", "#", '"#')), load[:80]
    assert "script" not in read.tags
    assert "link" not in read.tags


def test_ids_are_unique_and_references_lead_somewhere(full):
    read = Page(full)
    assert len(read.ids) == len(set(read.ids))
    wanted = {load.strip('"')[1:] for load in read.loads if load.strip('"').startswith("#")}
    assert wanted <= set(read.ids)


def test_sections_appear_with_their_inputs(full):
    assert set(Page(full).ids) >= SECTIONS
    assert "Not measured yet" not in full
    words = "".join(Page(full).words).replace("\u00a0", " ")
    assert "80 % [38, 96] of 5 random problems, planning while moving; random actions solve 20 %" in words
    assert "step" in words
    assert "Problem 0" in words


def test_sections_without_input_become_a_command(bare):
    assert set(Page(bare).ids) & SECTIONS == LIVE - {"rollouts"}
    words = "".join(Page(bare).words)
    for protocol in ("random", "knowledge", "surprise", "robustness"):
        assert f"--protocol {protocol} --json results/{protocol}.json" in words
    assert "nearest neighbour, not a decoder" in words


def test_what_files_say_is_escaped(full):
    assert "<script>" not in full
    assert "<b>bad" not in full
    words = "".join(Page(full).words)
    assert words.count(HOSTILE) >= 5
    assert "<b>bad & worse" in words


def test_what_is_left_out_is_said(full):
    words = "".join(Page(full).words)
    assert f"other.json is about the task {HOSTILE}" in words
    assert ".json holds no results" in words


def test_page_is_light_and_leaves_nothing_beside_it(full, small):
    # six problems and two failures are filmed by default, at up to 240 pixels
    assert len(full.encode()) < LARGEST / 8
    assert not [p.name for p in small.iterdir() if p.name.startswith(".")]


def test_a_long_film_of_full_size_stays_within_its_share():
    rng = np.random.default_rng(0)
    scene = np.zeros((240, 240, 3), np.uint8) + rng.integers(60, 200, (12, 12, 3), np.uint8).repeat(
        20, 0
    ).repeat(20, 1)
    frames = [np.roll(scene, 2 * k, 1) for k in range(101)]
    film = rollouts._animation(frames, 50)
    assert film[:4] == b"RIFF"
    assert len(film) * 4 / 3 < LARGEST / 9


def test_light_and_dark_come_from_the_page(full):
    assert "prefers-color-scheme: dark" in full
    assert "stroke: var(--c0)" in full
    assert not re.findall(r"#00000[1-5]|#00001[0-5]", full)


def test_measured_problems_that_ended_otherwise_are_found():
    values = {
        "problems": [{"index": i, "seed": i, "start": [0, 0], "goal": [0, 0]} for i in range(9)],
        "outcomes": [{"index": i, "success": i not in (1, 7, 8)} for i in range(9)],
    }
    measured = Result(Path("random.json"), values, datetime.now())
    script = rollouts.read_script("reach", "x", measured, 6)
    assert [p.index for p in script.first] == [0, 1, 2, 3, 4, 5]
    assert {reached: [p.index for p in found] for reached, found in script.others.items()} == {
        False: [7, 8],
        True: [6],
    }


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
            "knowledge.json",
            '{"protocol": "knowledge", "probes": {"linear": {}}}',
            "knowledge.json does not hold",
        ),
        ("surprise.json", '{"protocol": "surprise", "scores": {}}', "surprise.json does not hold"),
    ],
)
def test_damaged_results_are_named(small, tmp_path, capsys, name, content, sentence):
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
        (["--checkpoint", "/nowhere"], "no checkpoint at '/nowhere'"),
    ],
)
def test_bad_input_is_one_sentence(small, capsys, options, sentence):
    assert make(small, *options, name="never.html") == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


def test_a_damaged_line_of_metrics_is_named(small, tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    assert make(small, "--run", tmp_path, name="never.html") == 2
    assert "metrics.jsonl is damaged in line 2" in capsys.readouterr().err


def test_results_of_another_checkpoint_are_left_out(small, tmp_path):
    spec = read_spec(small / "<b>bad & worse")
    spec.training.update(seed=1, minutes=2.5)
    for name, noted in (("same", {"seed": 1, "minutes": 2.5, "name": "x"}), ("other", {"seed": 2})):
        values = {"protocol": "far", "task": "reach", "checkpoint": noted}
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
    inputs = read_inputs(tmp_path, None, "reach", spec)
    assert [r.path.name for r in inputs.results] == ["same.json"]
    assert "other.json was measured on another checkpoint" in inputs.ignored[0]


def test_the_result_of_most_problems_comes_first(small, tmp_path):
    for name, n in (("a", 100), ("b", 200), ("c", 100)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"protocol": "lewm", "n": n}))
        os.utime(tmp_path / f"{name}.json", (ord(name), ord(name)))
    inputs = read_inputs(tmp_path, None, "push", read_spec(small / "<b>bad & worse"))
    assert [r.path.stem for r in inputs.all("lewm")] == ["b", "c", "a"]
    assert inputs.best("lewm").n == 200
    assert inputs.best("far") is None


def test_an_interrupt_leaves_no_page(small, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "film_rollouts", interrupted)
    assert make(small, name="never.html") == 130
    assert not (small / "never.html").exists()


def test_without_matplotlib_the_remedy_is_named(small, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert make(small, name="never.html") == 2
    assert "pip install matplotlib" in capsys.readouterr().err


def test_a_verdict_is_shown_in_its_colour():
    shown = report._verdict({"fit": False, "verdict": "not fit <to> plan with"})
    assert 'class="verdict bad"' in shown
    assert "not fit &lt;to&gt; plan with." in shown
    assert report._verdict(None) is None
    assert report._verdict("yes") is None


def test_imagination_finds_the_frame_itself():
    import torch

    frames = np.arange(5, dtype=np.uint8)[:, None, None, None] + np.zeros((5, 4, 4, 3), np.uint8)
    bank = torch.eye(5)
    found = imagination._nearest(bank[[3, 1]] + 0.01, frames, bank)
    assert [f[0, 0, 0] for f in found] == [3, 1]


def test_angles_are_compared_around_the_circle():
    points = {"block angle": {"true": [[179.0], [-170.0]], "predicted": [[-179.0], [175.0]]}}
    assert plots.scatter(points).startswith("<svg")


def test_text_is_escaped_once():
    assert page.text(page.text("<&>")) == "&lt;&amp;&gt;"


@pytest.mark.parametrize(("lr", "kept"), [(1e-3, True), (2e-3, False)])
def test_curves_of_another_training_are_left_out(tmp_path, lr, kept):
    spec = dataclasses.replace(read_spec("models/reach"), training={"lr": 1e-3, "steps": 60})
    write_run(tmp_path / "run")
    identity = json.dumps({"settings": {"lr": lr, "steps": 60, "clip": 1.0}})
    torch.save({"identity": identity}, tmp_path / "run" / "state.pt")
    inputs = read_inputs(None, tmp_path / "run", "reach", spec)
    assert bool(inputs.metrics) == kept
    assert any("another training: lr 0.002, not 0.001" in words for words in inputs.ignored) != kept
