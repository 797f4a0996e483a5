"""The evaluation driver: samples and a reference in, a table and metrics.json out, for every domain."""

import inspect
import json
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gen3d import domains, io
from gen3d.config import convert
from gen3d.curves import read_values
from gen3d.domains.base import Domain, GenerativeDomain, Metric, SceneDomain
from gen3d.errors import Gen3dError
from gen3d.files import atomic_write
from gen3d.version import __version__

DATA = Path(os.environ.get("GEN3D_DATA", "data"))
"""Folder in which a bare name such as "qm9" is looked for."""

PACKAGES = (
    "torch", "numpy", "scipy", "rdkit", "pymatgen", "ase", "posebusters", "tblite", "smact", "chgnet",
)  # fmt: skip
"""Packages whose version can change a measured value."""

WORDS = ("metric", "95 % interval", "best", "definition")
"""Columns of the table that hold no numbers."""


def evaluate(
    domain_name: str,
    samples: str | Path | Sequence[Any],
    reference: str | Path | Sequence[Any],
    *,
    out: str | Path | None = None,
    checks: Mapping[str, Any] | None = None,
    workers: int | None = None,
    limit: int | None = None,
    compare: Sequence[str] = (),
    table: bool = True,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure samples by the metrics of their domain, print them as a table and keep them as JSON.

    Args:
        domain_name: "molecule", "crystal", ...
        samples: a file or folder that `gen3d.io.read` or the domain's dataset understands, or native objects;
            None among them is a sample that failed and counts as such, and so does an entry that cannot be
            read, and what `gen3d sample` drew for the file, by the `samples.json` beside it, beyond what the
            file holds.
        reference: the name of a prepared data set in the folder `data` (or $GEN3D_DATA), its path, a single
            file, or the objects themselves. Of prepared data the split "train" is used.
        out: folder for `metrics.json`, or a path that ends in .json; nothing is written when None.
        checks: options of the domain's metrics, such as `{"posebusters": True, "xtb": 100}`.
        workers: processes, all cores by default; 0 computes in this one. A script that uses more than 0 must
            do its work under `if __name__ == "__main__":`.
        limit: use only the first samples, at most so many.
        compare: whose values to show beside these: `metrics.json` files, or checkpoints by their model cards.
        table: print the table.
        progress: show progress bars.

    Returns:
        The content of metrics.json: the setting, the versions, under "metrics", by name, value (None when it
        could not be computed), definition, better, citation and, where there is one, the 95 % interval, and
        under "compared" the values of others.

    Raises:
        Gen3dError: the domain or data do not exist, a check is unknown, or there are no samples.
    """
    started = time.perf_counter()
    compared = {source: read_values(source) for source in compare}
    if limit is not None and limit < 1:
        raise Gen3dError(f"limit is {limit}; at least 1 sample is needed")
    cls = domains.find(domain_name)
    domain = cls(cls.Config())  # type: ignore[call-arg]
    options = dict(checks or {})
    split = str(options.pop("split", "test")) if issubclass(cls, SceneDomain) else ""
    _check_options(domain, options)
    objects = _first(_read_samples(domain, samples), limit)
    if not len(objects):
        raise Gen3dError("there are no samples to evaluate")
    known = _read_reference(domain, reference, split)
    metrics = domain.metrics(objects, known, workers=workers, progress=progress, **options)
    report = {
        "domain": domain_name,
        "samples": _label(samples),
        "reference": _label(reference),
        "n_samples": len(objects),
        "n_failed": sum(sample is None for sample in objects),
        "n_reference": len(known) if hasattr(known, "__len__") else None,
        "checks": options,
        "metrics": {metric.name: _entry(metric) for metric in metrics},
        **({"compared": compared} if compared else {}),
        "seconds": round(time.perf_counter() - started, 3),
        "versions": _versions(),
    }
    if table:
        print(format_table(report))
    if out is not None:
        _write(report, Path(out))
    return report


def format_table(report: Mapping[str, Any]) -> str:
    """The metrics of a report as aligned text."""
    rows = table_rows(report)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    head = f"{report['domain']}: {report['n_samples']} samples, {report['n_failed']} of them failed"
    lines = [f"{head}; {report['seconds']:.1f} s"]
    for row in rows:
        # numbers end, and text begins, at a common column
        cells = [
            cell.ljust(w) if name in WORDS else cell.rjust(w)
            for name, cell, w in zip(rows[0], row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def table_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The metrics of a report as rows of a table, of which the first has the names of the columns."""
    others = report.get("compared", {})
    rows = [("metric", "value", "95 % interval", *map(_short, others), "best", "definition")]
    for name, metric in report["metrics"].items():
        interval = metric.get("interval")
        rows.append(
            (
                name,
                _number(metric["value"]),
                "" if interval is None else f"{_number(interval[0])} to {_number(interval[1])}",
                *(_number(values[name]) if name in values else "" for values in others.values()),
                str(metric["better"]),
                metric["definition"],
            )
        )
    return rows


def _check_options(domain: Domain, options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(domain.metrics).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return  # the domain checks them itself
    allowed = [name for name in parameters if name not in ("samples", "reference", "workers", "progress")]
    for name, value in options.items():
        if name not in allowed:
            raise Gen3dError(f"unknown check {name!r}; allowed: {', '.join(allowed) or 'none'}")
        convert(parameters[name].annotation, value, f"check {name}")
        if isinstance(value, (int, float)) and value < 0:
            raise Gen3dError(f"check {name} is {value}; at least 0")


def _read_samples(domain: Domain, samples: str | Path | Sequence[Any]) -> Sequence[Any]:
    if not isinstance(samples, (str, Path)):
        return list(samples)
    path = Path(samples)
    if isinstance(domain, SceneDomain):
        return [domain.load(path)]
    # Prepared data are read by their domain: evaluated like samples, they give the best value one can expect.
    if path.suffix == ".npz" and isinstance(domain, GenerativeDomain):
        return list(domain.reference(path, "test"))
    objects = io.read(path, failures=True)
    return [*objects, *[None] * (_drawn(path) - len(objects))]


def _drawn(path: Path) -> int:
    """How many samples `gen3d sample` drew for a file or folder, by the `samples*.json` there; 0 if unknown.

    What it could not make or, with --valid-only, did not keep is a failed sample.
    """
    total = 0
    for beside in (path if path.is_dir() else path.parent).glob("samples*.json"):
        try:
            record = json.loads(beside.read_text(encoding="utf-8"))
            if path.is_dir() or record["file"] == path.name:
                total += int(record["counts"]["drawn"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return total


def _first(objects: Sequence[Any], limit: int | None) -> Sequence[Any]:
    """At most `limit` objects, with as large a share of failed ones as there is among all."""
    if limit is None or len(objects) <= limit:
        return objects
    made = [value for value in objects if value is not None]
    kept = made[: round(limit * len(made) / len(objects))]
    return [*kept, *[None] * (limit - len(kept))]


def _read_reference(domain: Domain, reference: Any, split: str) -> Any:
    if isinstance(reference, (str, Path)) and isinstance(domain, SceneDomain):
        return domain.reference(Path(reference), split)
    if not isinstance(reference, (str, Path)) or not isinstance(domain, GenerativeDomain):
        return reference
    path = Path(reference)
    bare = len(path.parts) == 1 and not path.suffix and not path.exists()
    return domain.reference(DATA / path if bare else path, "train")


def _entry(metric: Metric) -> dict[str, Any]:
    """The fields of a metric but its name, ready for JSON, which knows no infinities."""
    entry = asdict(metric)
    del entry["name"]
    value = entry["value"]
    entry["value"] = float(value) if value is not None and math.isfinite(value) else None
    return entry


def _versions() -> dict[str, str]:
    found = {"gen3d": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _write(report: Mapping[str, Any], out: Path) -> None:
    path = out if out.suffix == ".json" else out / "metrics.json"
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _label(source: Any) -> str | None:
    return str(source) if isinstance(source, (str, Path)) else None


def _short(source: str) -> str:
    """What a column of another's values is called: the end of a path."""
    return Path(source).stem if Path(source).stem != "metrics" else Path(source).parent.name or source


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
