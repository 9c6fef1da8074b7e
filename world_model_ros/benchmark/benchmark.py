"""The ``benchmark`` verb: encode, predict, rollout, solve and camera to plan, as p50, p95 and p99."""

import argparse
import platform
from pathlib import Path

import torch

from world_model_ros.benchmark import peer
from world_model_ros.benchmark.parts import CANDIDATES, HORIZON, ITERATIONS, Bench
from world_model_ros.data.atomic import check_target, write_json
from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import choose_device, load_checkpoint
from world_model_ros.model.config import ActionSpec, CheckpointSpec, ImageSpec, ModelConfig, find_checkpoint
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.nodes import latency
from world_model_ros.provenance import source_commit

PARTS = ("encode", "predict", "rollout", "solve", "pipeline", "published")
SIZES = {"small": "reach", "medium": "push", "full": None}  # the shipped model of that size
_LONG = ("pipeline", "published")  # only on request: they take half a minute and more


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "--size", choices=SIZES, default="small", help="full: published sizes, random weights"
    )
    parser.add_argument("--checkpoint", help="folder or shipped model to measure instead")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument(
        "--repeats", type=int, default=20, help="timed calls; a solve is timed eight times as often"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=PARTS,
        help=f"measure only this part; may be repeated (default: all but {', '.join(_LONG)})",
    )
    parser.add_argument(
        "--peer", choices=peer.PEERS, help="reference to run alternately on the published solve"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print a table, write the JSON; UserError for bad input."""
    if min(arguments.threads, arguments.repeats) < 1:
        raise UserError("--threads and --repeats must be at least 1.")
    choose_device(arguments.device)
    if arguments.json:
        check_target("--json", arguments.json)
    if arguments.peer:
        peer.require()
    torch.set_num_threads(arguments.threads)
    bench = Bench(*_model(arguments), arguments.device, arguments.repeats)
    results = {
        "size": None if arguments.checkpoint else arguments.size,
        "checkpoint": arguments.checkpoint,
        "device": arguments.device,
        "threads": arguments.threads,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "commit": source_commit(),
    }
    parts = arguments.only or [name for name in PARTS if name not in _LONG and not arguments.peer]
    for part in parts:
        results[part] = _pipeline(arguments, bench) if part == "pipeline" else getattr(bench, part)()
        print(_line(part, results[part]), flush=True)
    if arguments.peer:
        repeats = max(1, arguments.repeats // 10)
        results["peer"] = peer.compare(bench, CANDIDATES, HORIZON, ITERATIONS, repeats) | {
            "name": arguments.peer
        }
        print(_line("peer", results["peer"]))
    if arguments.json:
        write_json(arguments.json, results)
        print(f"results: {arguments.json}")
    return 0


def _pipeline(arguments: argparse.Namespace, bench: Bench) -> dict:
    name = arguments.checkpoint or SIZES[arguments.size]
    if name is None:
        raise UserError("the pipeline needs a trained checkpoint: give --checkpoint, or another --size.")
    return latency.measure(name, bench.spec, 8 * arguments.repeats)


def _model(arguments: argparse.Namespace) -> tuple[LeWorldModel, CheckpointSpec]:
    name = arguments.checkpoint or SIZES[arguments.size]
    if name:
        return load_checkpoint(find_checkpoint(name))
    block, bounds = 5, (1.0, 1.0)
    action = ActionSpec(("x", "y"), "twist", "m/s", (0.0, 0.0), bounds, (-1.0, -1.0), bounds)
    config = ModelConfig.full(block * 2)
    torch.manual_seed(0)
    model = LeWorldModel(config)
    for layer in model.predictor.transformer.layers:  # gates at zero would hide what the layers do
        torch.nn.init.normal_(layer.adaLN_modulation[1].weight, std=0.02)
    return model, CheckpointSpec(config, ImageSpec(config.image_size), action, period=0.1, block=block)


def _line(name: str, part: dict) -> str:
    line = f"{name:<10} p50 {part['p50_ms']:8.2f} ms   p95 {part['p95_ms']:8.2f}   p99 {part['p99_ms']:8.2f}"
    if name == "rollout":
        low = part["low"]
        line += (
            f"   {part['speedup']:.2f}x the plain one,"
            f" costs within {part['max_relative_cost_difference']:.0e};"
            f" {low} {part[f'{low}_speedup']:.2f}x, rank correlation {part[f'{low}_rank_correlation']:.4f}"
        )
    if name == "peer":
        line += (
            f"   {part['name']} {part['reference_p50_ms']:.0f} ms: {part['ratio']:.2f}x in fp32,"
            f" {part['bf16_ratio']:.2f}x in bf16; costs within {part['max_relative_cost_difference']:.0e},"
            f" {100 * part['same_elites']:.0f} % of the elites the same"
        )
    if name == "pipeline":
        shares = (f"{node} {100 * share:.1f} %" for node, share in part["idle_cpu"].items())
        line += "   of a core when idle: " + ", ".join(s for s in shares if not s.startswith("sim_node"))
    return line
