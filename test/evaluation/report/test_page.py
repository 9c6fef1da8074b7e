"""The page itself, with every input and with none."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from jinja2 import UndefinedError

from world_model_ros.evaluation.problems import make_problems
from world_model_ros.evaluation.report.report import render
from world_model_ros.model.strict import json_text
from world_model_ros.sim.tasks import make_world

pytest.importorskip("matplotlib")

HOSTILE = "<script>alert('x')</script>&\""


class Page(HTMLParser):
    """What a browser would load, the ids, the visible words; fails on tags that do not match."""

    VOID = {"meta", "img", "source", "br"}

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.ids, self.tags, self.words, self.attributes = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes, closed=False):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attributes)))
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
        "baselines": {
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
    probes = {name: {"end effector": value} for name, value in (("latent", 0.9), ("pixels", float("nan")))}
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
        "probing": {
            "protocol": "probing",
            "task": "reach",
            "probes": {"linear": probes, "mlp": probes},
            "scatter": {"end effector": {"true": points.tolist(), "predicted": (points + 0.01).tolist()}},
            "open_loop": {"steps": [1, 2], "error": [0.1, 0.2], "copy": [1.0, 1.5], "ratio": [0.1, 0.13]},
        },
        "imagination": {
            "protocol": "imagination",
            "task": "reach",
            "episodes": {"judged_frames": 2100, "judged_episodes": 100},
            "pictured": HOSTILE,
            "psnr": {"mean": 30.04, "interval": [29.5, 30.5]},
            "ssim": {"mean": 0.95, "interval": [0.94, 0.96]},
            "block_cm": {"decoded": {"mean": 0.61, "interval": [0.5, 0.7]}},
            "ahead": {
                "5": {"all": {"windows": 9, "block_cm": {"copy": {"mean": 7.25, "interval": [6.0, 8.5]}}}},
                "8": {"all": {"windows": 0, "block_cm": {}}},
            },
        },
        "surprise": {
            "protocol": "surprise",
            "task": "reach",
            "auroc": {"teleport": 0.9, HOSTILE: float("nan")},
            "threshold": 3.0,
            "false_alarms": {"steps": 60, "alarms": 1},
            "holds": {"steps": 70, "holds": 2},
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
        (folder / f"{name}.json").write_text(json_text(values))  # as `evaluate` writes it
    (folder / f"{HOSTILE.replace('/', '')}.json").write_text("[]")
    (folder / "other.json").write_text(json.dumps({"protocol": "random", "task": HOSTILE}))


@pytest.fixture(scope="module")
def full(small, make, write_run):
    """The page with every input."""
    write_results(small / "results")
    write_run(small / "run")
    assert make(small, "--results", small / "results", "--run", small / "run", "--films", 1) == 0
    return (small / "report.html").read_text()


@pytest.fixture(scope="module")
def bare(small, make):
    """The page of a checkpoint alone."""
    assert make(small, "--films", 0, name="bare.html") == 0
    return (small / "bare.html").read_text()


LIVE = {"rollouts", "imagination", "open-loop"}
SECTIONS = LIVE | {"success", "probing", "surprise", "robustness", "learning"}


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
    words = " ".join("".join(Page(full).words).split())
    assert "80 % [38, 96] of 5 random problems, planning while moving; random actions solve 20 %" in words
    assert "step" in words
    assert "Problem 0" in words


def test_sections_without_input_become_a_command(bare):
    assert set(Page(bare).ids) & SECTIONS == LIVE - {"rollouts"}
    words = " ".join("".join(Page(bare).words).split())
    for protocol in ("random", "probing", "surprise", "robustness"):
        assert f"--protocol {protocol} --json results/{protocol}.json" in words
    assert "nearest neighbour, not a decoder" in words


def test_what_files_say_is_escaped(full):
    assert "<script>" not in full
    assert "<b>bad" not in full
    assert not [
        name for _, attributes in Page(full).attributes for name in attributes if name.startswith("on")
    ]
    words = "".join(Page(full).words)
    assert words.count(HOSTILE) >= 5
    assert "<b>bad & worse" in words


def test_what_was_measured_of_the_decoder_stands_below_the_pictures(full):
    words = " ".join("".join(Page(full).words).split())
    assert "2100 frames of 100 episodes: PSNR 30.0 dB, SSIM 0.950." in words
    assert "seen 0.61 [0.50, 0.70] – – – 5 steps ahead – – – 7.25 [6.00, 8.50]" in words
    assert "8 steps ahead" not in words


def test_the_holds_of_the_monitor_stand_beside_the_false_alarms(full):
    words = " ".join("".join(Page(full).words).split())
    assert "1 of 60 normal steps; monitor_node would have stopped the robot 2 times." in words


def test_what_is_left_out_is_said(full):
    words = "".join(Page(full).words)
    assert f"other.json is about the task {HOSTILE}" in words
    assert ".json holds no results" in words


def test_page_is_light_and_leaves_nothing_beside_it(full, small, largest):
    # six problems and two failures are filmed by default, at up to 240 pixels
    assert len(full.encode()) < largest / 8
    assert not [p.name for p in small.iterdir() if p.name.startswith(".")]


def test_light_and_dark_come_from_the_page(full):
    assert "prefers-color-scheme: dark" in full
    assert "stroke: var(--c0)" in full
    assert not re.findall(r"#00000[1-5]|#00001[0-5]", full)


def test_every_picture_says_what_it_shows(full):
    for tag, attributes in Page(full).attributes:
        if tag == "img":
            assert attributes["alt"]
        if attributes.get("role") == "img":
            assert attributes["aria-label"]


def test_the_same_page_is_made_of_the_same_input(small, make, bare):
    """But for the command and the time: plots take no random ids."""
    assert make(small, "--films", 0, name="bare.html") == 0
    again = (small / "bare.html").read_text()
    assert again.split('<section id="how">')[0] == bare.split('<section id="how">')[0]


def test_a_name_that_the_template_does_not_get_is_an_error():
    with pytest.raises(UndefinedError):
        render(name="x")


def test_a_hostile_verdict_and_training_are_escaped(small, make, tmp_path):
    folder = tmp_path / "<b>bad & worse"
    shutil.copytree(small / "<b>bad & worse", folder)
    config = json.loads((folder / "config.json").read_text())
    config["training"] |= {
        "worthiness": {"fit": False, "verdict": HOSTILE},
        "command": HOSTILE,
        "commit": HOSTILE,
    }
    config["training"] |= {"steps": HOSTILE, "episodes": 3}
    (folder / "config.json").write_text(json.dumps(config))
    assert make(tmp_path, "--films", 0) == 0
    text = (tmp_path / "report.html").read_text()
    assert "<script>" not in text
    assert 'class="verdict bad"' in text
    assert "".join(Page(text).words).count(HOSTILE) == 4
