"""The registry of tasks, and that a task is one file."""

import io
import json
import shutil
import subprocess
import sys
import tokenize
from importlib import metadata
from pathlib import Path

import pytest

from world_model_ros import cli
from world_model_ros.errors import UserError
from world_model_ros.sim import tasks
from world_model_ros.sim.task import Task
from world_model_ros.sim.tasks import DEFAULT_TASK, find_task, make_world, stated_task, task_names

ROOT = Path(__file__).resolve().parents[2]


def test_a_task_is_named_in_its_own_file_only():
    """Its name as a text and the names of its classes; the default task is one constant."""
    found = []
    names = task_names()
    for path in [*(ROOT / "world_model_ros").rglob("*.py"), *(ROOT / "launch").glob("*.py")]:
        if path.parent.name == "tasks" and path.stem in names:
            continue
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            word = token.string.strip("\"'")
            named = token.type == tokenize.STRING and word in names
            named |= token.type == tokenize.NAME and word.startswith(tuple(n.title() for n in names))
            if named and "SIZES =" not in token.line:  # the benchmark's shipped models
                found.append(f"{path.relative_to(ROOT)}: {token.line.strip()}")
    assert found == [f"world_model_ros/sim/tasks/__init__.py: {found[0].split(': ', 1)[1]}"]
    assert found[0].split(": ", 1)[1].startswith(f'DEFAULT_TASK = "{DEFAULT_TASK}"')


def test_listing_and_finding_tasks_needs_no_physics_engine():
    code = (
        "import sys; from world_model_ros.sim.tasks import task_names, find_task\n"
        "kinds = [find_task(name) for name in task_names()]\n"
        "assert len(kinds) >= 2\n"
        "assert not {'pybullet', 'torch', 'rclpy', 'gymnasium'} & set(sys.modules), sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", task_names())
def test_a_task_keeps_the_contract(name):
    kind = find_task(name)
    assert issubclass(kind, Task)
    assert kind.criterion
    for protocol in kind.protocols.values():
        assert protocol.description
        assert protocol.budget > 0
    for coordinates in kind.probes.values():
        assert set(coordinates) <= set(kind.state_names)
    world = make_world(name)
    assert world.task == name
    assert kind.criterion in world.criteria(world.state())
    world.close()


@pytest.mark.parametrize("verb", ["collect --out {0}/a.h5", "evaluate", "sim", "report --out {0}/a.html"])
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("fly", "there is no task 'fly': choose one of detour, glass, push, reach, or give module:Class."),
        ("nowhere_at_all:Fly", "the task 'nowhere_at_all:Fly' cannot be imported (No module named"),
        ("json:Fly", "the task 'json:Fly' cannot be imported"),
        ("json:JSONDecoder", "json:JSONDecoder is no task"),
    ],
)
def test_an_unknown_task_is_one_sentence(verb, name, sentence, tmp_path, capsys):
    words = [*verb.format(tmp_path).split(), "--task", name, "--checkpoint", "models/reach"]
    if words[0] == "collect":
        words = words[:-2]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_another_package_adds_a_task_by_an_entry_point(monkeypatch):
    point = metadata.EntryPoint("elsewhere", "world_model_ros.sim.tasks.reach:Reach", tasks.GROUP)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point] if group == tasks.GROUP else [])
    assert task_names() == ("detour", "elsewhere", "glass", "push", "reach")
    assert find_task("elsewhere") is find_task("reach")


def test_a_class_in_the_current_folder_is_found_and_told_what_it_lacks(tmp_path, monkeypatch):
    (tmp_path / "half_a_task.py").write_text(
        "from world_model_ros.sim.task import Task\n\n\nclass Half(Task):\n    state_names = ('x',)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert find_task("half_a_task:Half").task == "half_a_task:Half"
    with pytest.raises(UserError, match="lacks criteria, distance, explorer, .*action_names, .*goal_words"):
        make_world("half_a_task:Half")


@pytest.mark.parametrize("stated", ["evil:Evil", "os:system", "nosuch", 3, ["reach"], "../evil:Evil"])
def test_a_file_does_not_choose_a_module_that_is_imported(stated, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("open('ran', 'w')\nclass Evil: pass\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="not installed here"):
        stated_task(stated)
    assert not (tmp_path / "ran").exists()
    assert stated_task(DEFAULT_TASK) == DEFAULT_TASK


def test_a_hostile_checkpoint_makes_report_import_nothing(tmp_path, monkeypatch, capsys):
    checkpoint = shutil.copytree(ROOT / "models" / DEFAULT_TASK, tmp_path / "model")
    config = json.loads((checkpoint / "config.json").read_text())
    config["training"]["task"] = "evil:Evil"
    (checkpoint / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("open('ran', 'w')\n")
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    words = ["--checkpoint", "model", "--results", "results", "--out", "report.html"]
    assert cli.main(["report", *words]) == 2
    assert "evil:Evil" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
