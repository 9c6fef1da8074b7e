"""Which episodes a training sees, and which it is judged by."""

import numpy as np

from world_model_ros.errors import UserError


def split_episodes(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the indices of training and held-out episodes, at least one of each.

    Whole episodes, because neighbouring frames of one would leak into the other part. UserError for
    fewer than two episodes.
    """
    if count < 2:
        raise UserError("training needs at least two episodes, one of them held out: collect more.")
    order = np.random.default_rng(seed).permutation(count)
    held_out = min(count - 1, max(1, round(share * count)))
    return sorted(order[held_out:].tolist()), sorted(order[:held_out].tolist())
