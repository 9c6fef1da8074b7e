import importlib.util
import json

import numpy as np
import pytest
import torch

from world_model_ros.benchmark import parts, peer
from world_model_ros.cli import main
from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.config import find_checkpoint
from world_model_ros.monitoring import statistics
from world_model_ros.nodes import latency, starter

PEER = importlib.util.find_spec("stable_worldmodel") is not None


def test_small_model_is_measured_part_by_part(tmp_path, capsys):
    file = tmp_path / "b.json"
    assert main(["benchmark", "--repeats", "2", "--json", str(file)]) == 0
    results, out = json.loads(file.read_text()), capsys.readouterr().out
    for part in ("encode", "predict", "rollout", "solve"):
        assert 0 < results[part]["p50_ms"] <= results[part]["p99_ms"]
        assert part in out
    assert results["rollout"]["speedup"] > 0
    assert results["rollout"]["max_relative_cost_difference"] < 1e-4
    assert results["rollout"]["bf16_rank_correlation"] > 0.9
    assert results["solve"]["planner"]["samples"] >= 2
    assert "published" not in results


def test_only_the_part_that_is_asked_for(capsys):
    assert main(["benchmark", "--repeats", "1", "--only", "encode"]) == 0
    out = capsys.readouterr().out
    assert "encode" in out
    assert "solve" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--threads", "0"], "at least 1"),
        (["--json", "/nowhere/b.json"], "--json"),
        pytest.param(
            ["--device", "cuda"],
            "sees no GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here"),
        ),
    ],
)
def test_bad_options_are_refused(words, message, capsys):
    assert main(["benchmark", *words]) == 2
    assert message in capsys.readouterr().err


def test_alternating_takes_turns_and_leaves_the_first_one_out():
    calls = []
    results = parts.alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert {name: values.shape for name, values in results.items()} == {"a": (2,), "b": (2,)}
    assert statistics.percentiles(np.array([1.0, 2.0, 3.0]))["p50_ms"] == 2


@pytest.mark.skipif(PEER, reason="stable-worldmodel is installed")
def test_a_peer_that_is_not_here_is_refused_at_once(capsys):
    assert main(["benchmark", "--peer", "stable-worldmodel"]) == 2
    captured = capsys.readouterr()
    assert "pip install stable-worldmodel" in captured.err
    assert not captured.out


@pytest.mark.skipif(not PEER, reason="stable-worldmodel is not installed: no dependency of ours")
def test_the_peer_computes_the_same_costs_and_elites():
    model, spec = load_checkpoint(find_checkpoint("reach"))
    results = peer.compare(
        parts.Bench(model, spec, "cpu", 1), candidates=60, horizon=5, iterations=3, repeats=1
    )
    assert results["max_relative_cost_difference"] < 1e-4
    assert results["same_elites"] == 1
    assert results["max_plan_difference"] < 1e-3


def test_camera_to_plan_is_measured_on_real_processes(processes, tmp_path):
    pytest.importorskip("rclpy", reason="ROS 2 is not here: make setup installs it, or source one")
    file = tmp_path / "b.json"
    words = (
        "-m",
        "world_model_ros",
        "benchmark",
        "--repeats",
        "1",
        "--only",
        "pipeline",
        "--json",
        str(file),
    )
    process = processes.start(*words)
    assert process.wait(280) == 0, process.log.read_text()
    results = json.loads(file.read_text())["pipeline"]
    assert 0 < results["p50_ms"] <= results["p99_ms"]
    assert results["n"] >= 8
    assert results["cpu"]["planner_node"] > results["idle_cpu"]["planner_node"]
    assert set(results["idle_cpu"]) == set(starter.NODES)
    assert not processes.alive()


def test_two_measurements_at_once_are_in_two_domains(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with latency.free_domain() as one, latency.free_domain() as other:
        assert one != other
    with latency.free_domain() as again:
        assert again == one
    monkeypatch.setattr(latency, "_DOMAINS", range(90, 91))
    with latency.free_domain(), pytest.raises(UserError, match="wait until one has ended"):
        latency.free_domain().__enter__()
