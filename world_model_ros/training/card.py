"""The card of a checkpoint: what it was made from, how to make it again, what was measured."""

from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.model.config import CheckpointSpec


def write_card(
    name: str, spec: CheckpointSpec, file: EpisodeFile, command: str, held_out: int, figures: dict
) -> str:
    """Return the text of card.md; ``figures`` are those of ``validate`` and ``calibrate``."""
    attributes, thresholds, training = file.attributes, spec.thresholds, spec.training
    collected = attributes.get("command")
    commands = "\n".join([*([collected] if collected else []), command])
    action = ", ".join(spec.action.names)
    mistaken = figures.get("goal_reached_mistaken")
    reached = f"{thresholds.goal_reached:.3f} ({figures['goal_reached_from']}"
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
{commands}
```

commit {training["commit"] or "unknown"}, torch {training["torch"]}, \
{training["steps"]} steps of {training["batch"]} clips, SIGReg weight {training["sigreg"]:g}, \
seed {training["seed"]}, {training["precision"]}, {training["minutes"]:.1f} minutes on \
{training["device"]} ({training["threads"]} threads).

## Measured on held-out episodes

| | |
|---|---|
| one-step error, mean square | {figures["prediction"]:.4f} |
| error of copying the last latent | {figures["copy"]:.4f} |
| ratio | {figures["ratio"]:.4f} |
| latent standard deviation (1 is a normal's) | {figures["latent_std"]:.3f} |
| effective rank of {spec.model.latent_dim} | {figures["effective_rank"]:.1f} |

## Thresholds

| | |
|---|---|
| goal reached, squared latent distance | {reached} |
| surprise, squared error of one step | {thresholds.surprise:.3f} (99.9 % of held-out steps are below) |
| latent norm | {thresholds.norm_low:.2f} to {thresholds.norm_high:.2f} |
"""
