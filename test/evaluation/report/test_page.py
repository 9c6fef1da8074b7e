"""The page itself, with every input and with none."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from world_model_ros.evaluation.problems import make_problems
from world_model_ros.jsonable import json_text
from world_model_ros.sim.worlds import make_world

pytest.importorskip("matplotlib")

HOSTILE = "<script>alert('x')</script>&\""


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


def test_page_is_light_and_leaves_nothing_beside_it(full, small, largest):
    # six problems and two failures are filmed by default, at up to 240 pixels
    assert len(full.encode()) < largest / 8
    assert not [p.name for p in small.iterdir() if p.name.startswith(".")]


def test_light_and_dark_come_from_the_page(full):
    assert "prefers-color-scheme: dark" in full
    assert "stroke: var(--c0)" in full
    assert not re.findall(r"#00000[1-5]|#00001[0-5]", full)
