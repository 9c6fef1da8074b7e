"""The card of a checkpoint: its data, the commands that make it, the measured results."""

from itertools import pairwise

from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.model.config import CheckpointSpec


def _temporal_row(metrics: dict) -> str:
    estimates = {k.removeprefix("temporal_"): v for k, v in metrics.items() if k.startswith("temporal_")}
    if not estimates:
        return ""
    pairs = ", ".join(f"{value:.1f} for {offset}" for offset, value in estimates.items())
    return f"| temporal distance, mean estimate in model steps | {pairs} |\n"


def _landmarks_row(metrics: dict) -> str:
    if "landmarks_joined" not in metrics:
        return ""
    values = f"{metrics['landmark_edges']:.1f} edges from each, a way joins {metrics['landmarks_joined']:.1%}"
    return f"| landmarks | {values} of the pairs |\n"


def _inverse_row(metrics: dict) -> str:
    judged = {k.removeprefix("inverse_"): v for k, v in metrics.items() if k.startswith("inverse_")}
    if not judged:
        return ""
    pairs = ", ".join(f"{value:.2f} for arrivals in {arrival}" for arrival, value in judged.items())
    return f"| inverse dynamics, R2 of the next block | {pairs} |\n"


def _ensemble_row(metrics: dict) -> str:
    if "ensemble_prediction" not in metrics:
        return ""
    return f"| second predictor, one-step error, mean square | {metrics['ensemble_prediction']:.4f} |\n"


def _object_row(metrics: dict) -> str:
    if "object_p50" not in metrics:
        return ""
    values = ", ".join(f"{metrics[f'object_p{q}']:.2f} ({q} %)" for q in (25, 50, 90))
    return f"| object distance of neighbouring frames, quantiles | {values} |\n"


def _risk_row(metrics: dict) -> str:
    if "risk_false_alarms" not in metrics:
        return ""
    values = (
        f"{metrics.get('risk_foreseen', 0):.1%} of those with the event, {metrics['risk_false_alarms']:.1%}"
    )
    return f"| risk, announced within 5 imagined model steps | {values} of those without |\n"


def _decoder_row(metrics: dict) -> str:
    if "decoder_psnr" not in metrics:
        return ""
    return f"| decoder, mean PSNR of the pictures | {metrics['decoder_psnr']:.1f} dB |\n"


_SECTIONS = {
    name: f"\n## {name.capitalize()}, trained afterwards\n" for name in ("heads", "ensemble", "decoder")
} | {"landmarks": "\n## Landmarks, chosen afterwards\n"}
_ALONE = {"decoder": "decoder_psnr", "ensemble": "ensemble_prediction", "landmarks": "landmarks_joined"}


def with_heads(card: str, part: str, note: dict, metrics: dict) -> str:
    """Return a card's text with a section on heads, or on one of ``_ALONE`` alone, that were made later.

    It takes the place of an earlier section on the same ``part``; all other sections stay. A decoder, an
    ensemble or landmarks that came with heads are in their section.
    """
    rows = _temporal_row(metrics) + _landmarks_row(metrics) + _inverse_row(metrics) + _object_row(metrics)
    rows += _ensemble_row(metrics)
    rows += _reached_row(metrics)
    rows += _risk_row(metrics) + _decoder_row(metrics)
    section = f"""{_SECTIONS[part]}
```
{note["command"]}
```

commit {note["commit"] or "unknown"}; all other weights are as they were. On held-out episodes:

| | |
|---|---|
{rows}"""
    for own, metric in _ALONE.items():
        if part == "heads" and metric in metrics:
            before, _, after = _around(card, own)
            card = before + after
    before, found, after = _around(card, part)
    return f"{before.rstrip()}\n{section}{after}" if found else f"{card.rstrip()}\n{section}"


def _around(card: str, part: str) -> tuple[str, bool, str]:
    """Return the text before the section on ``part``, whether there is one, and the text after it."""
    before, found, after = card.partition(_SECTIONS[part])
    following = after.find("\n## ")
    return before, bool(found), after[following:] if following >= 0 else ""


def collect_command(file: EpisodeFile) -> list[str]:
    """Return the command that makes such a file; empty for a file that `collect` did not make."""
    values = {name: file.attributes.get(name) for name in ("task", "length", "seed", "image_size")}
    source, checkpoint = str(file.attributes.get("source")), file.attributes.get("checkpoint")
    if not ("scripted explorer" in source or checkpoint) or None in values.values():
        return []
    planner = f" --policy planner --checkpoint {checkpoint}" if checkpoint else ""
    return [
        f"python -m world_model_ros collect --task {values['task']} --out {file.path} "
        f"--episodes {len(file)} --length {values['length']} --seed {values['seed']} "
        f"--size {values['image_size']}{planner}"
    ]


def _reached_row(metrics: dict[str, float]) -> str:
    if "object_reached" not in metrics:
        return ""
    told = f"{metrics['object_reached']:.3f} (median of {metrics['object_reached_from']})"
    return f"| goal reached, object distance | {told} |\n"


def write_card(
    name: str, spec: CheckpointSpec, file: EpisodeFile, commands: list[str], held_out: int, metrics: dict
) -> str:
    """Return the text of card.md; ``metrics`` are those of ``validate`` and ``calibrate``."""
    attributes, thresholds, training = file.attributes, spec.thresholds, spec.training
    made = "\n".join(commands)
    action = ", ".join(spec.action.names)
    mistaken = metrics.get("goal_reached_mistaken")
    reached = f"{thresholds.goal_reached:.3f} ({metrics['goal_reached_from']}"
    started = "".join(
        f" Steps {first + 1} to {last} were taken with the learning rate of {steps} steps."
        for (first, steps), (last, _) in pairwise(training.get("schedule", []))
    )
    reached += ")" if mistaken is None else f"; {mistaken:.2%} of pairs over 5 cm apart pass it too)"
    return f"""# {name}

A LeWorldModel (arXiv 2603.19312) with {training["parameters"] / 1e6:.2f} M parameters: {spec.model.encoder} \
encoder at {spec.image.size} px, latent of {spec.model.latent_dim}, history of {spec.history} frames.
It plans actions {action} ({spec.action.kind}, {spec.action.unit}), {spec.block} control steps of \
{spec.period:g} s to a model step.

## Data

{file.path.name}: {len(file)} episodes, {int(file.lengths.sum())} frames, {held_out} episodes held out; \
source {attributes.get("source", "unknown")}, task {attributes.get("task", "unknown")}.

## Made by

```
{made}
```

commit {training["commit"] or "unknown"}, torch {training["torch"]}, \
{training["steps"]} steps of {training["batch"]} clips, \
SIGReg weight {training["sigreg"]:g}, motion weight {training.get("motion", 0):g}, \
disturbances {training.get("augment", 0):g}, seed {training["seed"]}, {training["precision"]}, \
{training["minutes"]:.1f} minutes on {training["device"]} ({training["threads"]} threads).{started}

## Measured on held-out episodes

| | |
|---|---|
| one-step error, mean square | {metrics["prediction"]:.4f} |
| the same on episodes of the training | {metrics["prediction_seen"]:.4f} |
| error of copying the last latent | {metrics["copy"]:.4f} |
| ratio | {metrics["ratio"]:.4f} |
| latent standard deviation (1 is a normal's) | {metrics["latent_std"]:.3f} |
| effective rank of {spec.model.latent_dim} | {metrics["effective_rank"]:.1f} |
{_temporal_row(metrics)}{_landmarks_row(metrics)}{_inverse_row(metrics)}{_object_row(metrics)}{_ensemble_row(metrics)}{_risk_row(metrics)}{_decoder_row(metrics)}
{training.get("readiness", {}).get("verdict", "")}

## Thresholds

| | |
|---|---|
| goal reached, squared latent distance | {reached} |
{_reached_row(metrics)}\
| surprise, squared error of one step | {thresholds.surprise:.3f} (99.9 % of held-out steps are below) |
| latent norm | {thresholds.norm_low:.2f} to {thresholds.norm_high:.2f} |
"""
