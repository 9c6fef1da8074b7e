"""What make setup promises: which Pythons, what it checks first, and that the package is found anywhere."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_python", ROOT / ".ci" / "check_python.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_python_that_the_readme_names_is_accepted_and_no_other(check):
    first, last = re.search(r"Python 3\.(\d+) to 3\.(\d+)", (ROOT / "README.md").read_text()).groups()
    for minor in range(6, 20):
        accepted = check.problem((3, minor), "Linux x86_64") == ""
        assert accepted == (int(first) <= minor <= int(last)), minor


@pytest.mark.parametrize(
    ("version", "machine", "lacking", "sentence"),
    [
        ((3, 9), "Linux x86_64", (), "Python 3.9 is not supported: name one of 3.10 to 3.13"),
        ((3, 14), "Linux x86_64", (), "Python 3.14 is not supported"),
        ((3, 11), "Linux aarch64", (), "this is Linux aarch64: source a ROS 2 installation"),
        ((3, 11), "Linux x86_64", ("venv",), "apt install python3.11-venv"),
        ((3, 11), "Linux x86_64", ("compiler", "headers"), ""),
        ((3, 12), "Linux x86_64", ("compiler",), "which needs g++: apt install g++, or make setup PYTHON="),
        ((3, 13), "Linux x86_64", ("compiler", "headers"), "apt install g++ python3.13-dev"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence_with_the_remedy(check, version, machine, lacking, sentence):
    found = check.problem(version, machine, **{f"has_{name}": False for name in lacking})
    assert sentence in found
    assert bool(sentence) == bool(found)
    assert "\n" not in found


def test_make_setup_stops_before_pip_on_a_python_that_is_too_old(tmp_path):
    python = tmp_path / "python3.9"
    code = "import runpy, sys; sys.version_info = (3, 9, 2); runpy.run_path(sys.argv[1], run_name='__main__')"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n')
    python.chmod(0o755)
    words = ["make", "-C", ROOT, f"PYTHON={python}", f"VENV={tmp_path / 'venv'}", tmp_path / "venv/.created"]
    done = subprocess.run(words, capture_output=True, text=True, env=_bare())
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if "make" not in line.split(":")[0]]
    assert said == [
        "error: Python 3.9 is not supported: name one of 3.10 to 3.13, as make setup PYTHON=python3.11."
    ]
    assert not (tmp_path / "venv").exists()


def test_the_pins_have_one_version_for_each_python():
    packaging = pytest.importorskip("packaging.requirements")
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    wanted = [packaging.Requirement(line) for line in lines if line and not line.startswith("#")]
    names = {r.name.lower() for r in wanted}
    for minor in range(10, 14):
        version = {"python_version": f"3.{minor}"}
        held = [r.name.lower() for r in wanted if r.marker is None or r.marker.evaluate(version)]
        assert len(held) == len(set(held))
        assert names - set(held) == (
            {"narwhals"} if minor == 10 else {"async-timeout", "exceptiongroup", "six", "tomli"}
        )
    numpy = {str(r.specifier) for r in wanted if r.name == "numpy"}
    assert len(numpy) == 2  # the newest one does not run on 3.10


@pytest.mark.skipif(
    not Path(sys.prefix).is_relative_to(ROOT), reason="the environment is not the one of make setup"
)
def test_the_environment_of_make_setup_finds_the_package_from_any_folder(tmp_path):
    def where(folder, **variables):
        code = "import world_model_ros; print(world_model_ros.__file__)"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env=_bare() | variables
        )
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())

    assert where(tmp_path).resolve() == ROOT / "world_model_ros" / "__init__.py"
    # Another copy, such as a second work tree, is found before it: by the folder, and by PYTHONPATH.
    package = tmp_path / "other" / "world_model_ros"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    assert where(package.parent) == package / "__init__.py"
    assert where(tmp_path, PYTHONPATH=str(package.parent)) == package / "__init__.py"


def _bare():
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MAKEFLAGS", "MAKELEVEL")}
