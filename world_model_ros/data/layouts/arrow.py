"""Columns of Arrow tables, of parquet files and Lance tables alike, as episodes of numpy arrays."""

import importlib
from collections.abc import Iterable, Iterator

import numpy as np

from world_model_ros.errors import UserError


def require(module: str, package: str, what: str):
    """Import and return ``module``; UserError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"{what} needs {package}: run `pip install {package}`.") from None


def by_episode(batches: Iterable, key: str) -> Iterator[tuple[int, object]]:
    """Yield (episode, table) of record batches whose rows are ordered by the column ``key``."""
    import pyarrow

    current, parts = None, []
    for batch in batches:
        indices = batch.column(batch.schema.get_field_index(key)).to_numpy(zero_copy_only=False)
        starts = [0, *(np.flatnonzero(np.diff(indices)) + 1), len(indices)]
        for start, stop in zip(starts[:-1], starts[1:], strict=True):
            if stop == start:
                continue
            if current is not None and indices[start] != current:
                yield int(current), pyarrow.Table.from_batches(parts)
                parts = []
            current = indices[start]
            parts.append(batch.slice(start, stop - start))
    if parts:
        yield int(current), pyarrow.Table.from_batches(parts)


def numbers(table, column: str) -> np.ndarray | None:
    """Return a column of numbers or of equally long lists as (T, K), None where there is no such column."""
    if column not in table.column_names:
        return None
    values = table.column(column).combine_chunks()
    if hasattr(values, "flatten") and hasattr(values.type, "value_type"):
        values = values.flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(table.num_rows, -1)
