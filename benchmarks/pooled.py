"""Rows of a benchmark that are made side by side, written down as they come."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from gen3d.files import atomic_write

Row = dict[str, Any]


def pooled(
    made: Callable[[Any], Row],
    jobs: Sequence[Any],
    workers: int,
    out: Path,
    report: Callable[[list[Row]], Row],
) -> None:
    """Make a row of every job, `workers` at a time, and write `report` of the rows so far with the rows."""
    rows: list[Row] = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for row in pool.map(made, jobs):
            rows.append(row)
            print(row, flush=True)
            with atomic_write(out) as temporary:
                text = json.dumps({**report(rows), "rows": rows}, indent=2)
                temporary.write_text(text + "\n", encoding="utf-8")
