import argparse
import dataclasses
import json
import math
import os
import re
import shlex
import signal
import sys
import threading
import types
from datetime import datetime

import pytest

from world_model_ros.cli import main
from world_model_ros.errors import UserError
from world_model_ros.evaluation import evaluate
from world_model_ros.evaluation.problems import save_problems
from world_model_ros.evaluation.report.inputs import Result
from world_model_ros.evaluation.report.pictures import read_script
from world_model_ros.planning.config import OPTIONS, PlannerConfig

SMALL = ["--samples", "8", "--elites", "2", "--iterations", "1"]


def arguments(*words):
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    return parser.parse_args([*map(str, words)])


@pytest.mark.parametrize(
    ("words", "protocol", "budget", "n"),
    [
        (["--task", "reach", "-n", 2], "random", 50, 2),
        (["--task", "reach", "-n", 2, "--protocol", "lewm"], "lewm", 50, 2),
        (["--task", "push", "-n", 1], "lewm", 50, 1),
        (["--task", "push", "-n", 1, "--protocol", "far"], "far", 200, 1),
        (["--task", "push", "-n", 1, "--protocol", "far", "--budget", 30], "far", 30, 1),
        (["--task", "push", "-n", 1, "--protocol", "robustness"], "lewm", 50, 1),
        (["--task", "reach"], "random", 50, 100),
        (["--task", "reach", "--protocol", "robustness"], "random", 50, 50),
    ],
)
def test_defaults_are_the_tasks_and_the_protocols(checkpoint, words, protocol, budget, n):
    found = evaluate._problems(arguments(*words), checkpoint)
    assert (found.protocol, found.budget, len(found.problems)) == (protocol, budget, n)


def test_a_problem_file_brings_its_budget_and_options_change_it(checkpoint, tmp_path):
    file = tmp_path / "p.json"
    first = evaluate._problems(arguments("--task", "reach", "-n", 3, "--budget", 40), checkpoint)
    save_problems(file, first)
    common = ["--task", "reach", "--problems", file]
    assert evaluate._problems(arguments(*common), checkpoint) == first
    changed = evaluate._problems(arguments(*common, "--budget", 15, "-n", 2), checkpoint)
    assert (changed.budget, changed.problems) == (15, first.problems[:2])
    with pytest.raises(UserError, match="problems of protocol random: leave --protocol out"):
        evaluate._problems(arguments(*common, "--protocol", "lewm"), checkpoint)


def test_further_protocols_are_modules_imported_on_use(monkeypatch, checkpoint, tmp_path, capsys):
    asked = []
    module = types.ModuleType("a_further_protocol")
    module.measure = lambda *words: asked.append(words) or {"finding": 3}
    module.summary = lambda results: f"found {results['finding']} in {results['protocol']}"
    monkeypatch.setitem(sys.modules, "a_further_protocol", module)
    monkeypatch.setitem(evaluate.OPEN_LOOP, "probing", "a_further_protocol")
    file = tmp_path / "k.json"
    words = [
        "--task",
        "push",
        "--checkpoint",
        checkpoint,
        "--protocol",
        "probing",
        "-n",
        "7",
        "--seed",
        "5",
    ]
    assert main(["evaluate", *words, "--data", "some.h5", "--json", str(file)]) == 0
    assert [(*first[:2], str(first[2]), *first[3:]) for first in asked] == [
        (checkpoint, "push", "some.h5", 7, 5)
    ]
    found = json.loads(file.read_text())
    assert found["finding"] == 3
    assert (found["protocol"], found["task"], found["seed"]) == ("probing", "push", 5)
    assert {"checkpoint", "commit"} <= set(found)
    assert "found 3 in probing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--protocol", "surprise", "--save-problems", "{}/p.json"],
            "--save-problems is for the other protocols",
        ),
        (["--protocol", "probing", "--budget", "9"], "--budget is for the other protocols"),
        (["--data", "some.h5"], "--data is for imagination, probing and surprise"),
        (["--json", "{}"], "is a folder: name a file"),
        (["--save-problems", "{}"], "is a folder: name a file"),
        (["--filmstrip", "{}/none/f.png"], "there is no folder"),
        (["--json", "/proc/r.json"], "nothing can be written in /proc"),
        (["--workers", "0"], "--workers must be at least 1"),
        (["--seed", "-1"], "--seed must be at least 0"),
    ],
)
def test_bad_input_is_refused_before_the_work(words, sentence, tmp_path, capsys):
    assert main(["evaluate", "--task", "reach", *(word.format(tmp_path) for word in words)]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_every_option_of_the_planner_is_an_option_with_the_same_words_and_default(capsys):
    given = arguments("--task", "reach")
    words = []
    for field in dataclasses.fields(PlannerConfig):
        option = OPTIONS[field.name]
        if field.name == "seed":  # each problem brings its own
            continue
        assert getattr(given, field.name) == field.default
        value = option.choices[-1] if option.choices else option.high
        words += [f"--{field.name.replace('_', '-')}", str(value)]
    words[words.index("--elites") + 1] = "100"
    chosen = evaluate._planner(arguments("--task", "reach", *words))
    assert chosen.elites == 100
    for name, option in OPTIONS.items():
        if name not in ("elites", "seed"):
            assert getattr(chosen, name) == (option.choices[-1] if option.choices else option.high)
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name, option in OPTIONS.items():
        assert name == "seed" or option.description[1:].rstrip(".") in shown
    assert (
        "(default: the protocol's where it sets one, as lewm does; otherwise the objective's default)"
        in shown
    )
    assert "None" not in shown


def test_what_the_planner_refuses_in_a_worker_is_said(capsys):
    words = ["--task", "reach", "-n", "1", "--no-baselines", "--precision", "fp16"]
    assert main(["evaluate", *words]) == 2
    said = capsys.readouterr().err
    assert "precision fp16 is for GPUs" in said
    assert "worker process died" not in said


def test_what_the_planner_refuses_is_refused_before_the_work(capsys):
    assert main(["evaluate", "--task", "reach", "--correlation", "1.5"]) == 2
    assert "correlation must be from 0 to 0.999, it is 1.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "horizon"),
    [(["lewm"], 5), (["lewm", "--horizon", "2"], 2), (["far"], 8), (["far", "--horizon", "5"], 5)],
)
def test_lewm_is_planned_with_the_published_horizon(words, horizon, tmp_path):
    file = tmp_path / "r.json"
    words = ["--protocol", *words, "-n", "1", "--budget", "5", "--no-baselines", *SMALL, "--json", str(file)]
    assert main(["evaluate", "--task", "push", *words]) == 0
    assert json.loads(file.read_text())["planner"]["horizon"] == horizon


def test_baselines_can_be_left_out(checkpoint, tmp_path):
    file = tmp_path / "r.json"
    words = ["--task", "push", "--protocol", "far", "-n", "1", "--budget", "7", "--no-baselines", *SMALL]
    assert main(["evaluate", "--checkpoint", checkpoint, *words, "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["baselines"] == {}
    assert found["n"] == 1
    again = shlex.split(found["command"])
    assert again[:4] == ["python", "-m", "world_model_ros", "evaluate"]
    assert arguments(*again[4:]) == arguments("--checkpoint", checkpoint, *words)
    assert found["outcomes"][0]["start_angle"] >= 0
    assert found["outcomes"][0]["final_angle"] >= 0


def test_results_are_json_that_any_reader_takes_and_can_be_run_again(checkpoint, tmp_path):
    """The squared distance's replan_tolerance is infinite: null in JSON, which leaves it open again."""
    file = tmp_path / "random.json"
    words = ["--task", "reach", "-n", "1", "--budget", "5", "--no-baselines", *SMALL]
    assert main(["evaluate", "--checkpoint", checkpoint, *words, "--json", str(file)]) == 0

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    found = json.loads(file.read_text(), parse_constant=refuse)
    assert found["planner"]["replan_tolerance"] is None
    script = read_script("reach", checkpoint, Result(file, found, datetime.now()))
    before = PlannerConfig(samples=8, elites=2, iterations=1).resolved(temporal=False, inverse=False)
    assert before.replan_tolerance == math.inf
    assert script.settings.planner.resolved(temporal=False, inverse=False) == before


def test_ctrl_c_is_130_and_leaves_no_process(checkpoint, processes):
    words = ["--task", "reach", "--checkpoint", checkpoint, "-n", "5000", "--workers", "2", *SMALL]
    process = processes.start("-m", "world_model_ros", "evaluate", *words)
    moment = threading.Event()
    while not re.search(r"success \d+/[1-9]", process.log.read_text()):
        assert process.poll() is None, process.log.read_text()
        moment.wait(0.05)
    assert len(processes.ours()) >= 3
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(120) == 130
    log = process.log.read_text()
    assert "interrupted" in log
    assert "Traceback" not in log
    for _ in range(1000):
        if not processes.alive():
            break
        moment.wait(0.05)
    assert not processes.alive()
