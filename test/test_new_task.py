"""docs/new_task.md does what it says: its file and its commands, with fewer episodes, steps and problems."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(900)  # each first collects and trains
ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "new_task.md").read_text()
LESS = {"--episodes": "30", "--steps": "20", "--temporal-steps": "5", "--inverse-steps": "5", "-n": "3"}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


def command(verb, *more):
    """Return the page's command of a verb as words, cut down to seconds."""
    lines = [line for line in "".join(blocks("bash")).splitlines() if f"world_model_ros {verb} " in line]
    line = next(line for line in lines if all(word in line for word in more))
    words = shlex.split(line.partition("python -m world_model_ros ")[2])
    return [LESS.get(before, word) for before, word in zip(["", *words], words, strict=False)]


def run(folder, verb, *more, options=()):
    if "mkdir -p results" in "".join(blocks("bash")).splitlines():
        (folder / "results").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "world_model_ros", *command(verb, *more), *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the page's file, its episodes and its checkpoint."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "light.py").write_text(blocks("python")[0])
    assert "30 episodes, 630 frames" in run(folder, "collect", options=["--workers", "1"])
    run(folder, "train")
    return folder


def test_the_page_leads_from_a_file_to_results(folder):
    told = run(folder, "evaluate", "--json")
    assert "light:Light, protocol random, n = 3" in told
    found = json.loads((folder / "results" / "light.json").read_text())
    assert set(found["baselines"]) == {"random", "repeat"}
    assert found["interval"][0] <= found["success_rate"] <= found["interval"][1]
    assert found["budget"] == 50
    training = json.loads((folder / "models" / "light" / "config.json").read_text())["training"]
    assert training["task"] == "light:Light"
    assert "collect --task light:Light" in (folder / "models" / "light" / "card.md").read_text()


def test_the_page_is_what_a_gymnasium_environment_is_made_from(folder, monkeypatch):
    pytest.importorskip("gymnasium", reason="gymnasium is not installed: pip install gymnasium")
    from gymnasium.utils.env_checker import check_env

    monkeypatch.syspath_prepend(str(folder))
    found = {}
    exec(blocks("python")[-1], found)
    assert found["terminated"] in (False, True)
    check_env(found["env"], skip_render_check=True)


@pytest.mark.ros
def test_the_page_is_driven_over_ros(folder, processes, observer):
    processes.environment["PYTHONPATH"] += os.pathsep + str(folder)
    words = command("sim")
    words[words.index("--checkpoint") + 1] = str(folder / "models" / "light")
    words[words.index("--goals") + 1] = "1"
    sim = processes.start("-m", "world_model_ros", *words, "--real-time-factor", "0")
    observer.until(lambda: sim.poll() is not None, seconds=300)
    log = sim.log.read_text()
    assert sim.returncode == 0, log
    assert re.search(r"goal 1/1 (reached|missed): \d+ mm, \d+ steps", log), log
    assert " of 1 goals reached" in log
