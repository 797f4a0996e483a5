"""Curves of a training or a fit, and values of an evaluation beside others, as pictures."""

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen3d import checkpoint
from gen3d.errors import Gen3dError, MissingExtra, require
from gen3d.files import atomic_write
from gen3d.info import card_metrics
from gen3d.locate import locate

METRICS = "metrics.jsonl"
FILE = "curves.png"
BOOKKEEPING = {
    "step",
    "stage",
    "lr",
    "grad_norm",
    "tokens_per_second",
    "samples_per_second",
    "minutes",
    "seconds",
}
"""What lines of metrics.jsonl hold that says nothing of how good a model is."""
HELD_OUT = {"valid_loss": "loss", "psnr_held_out": "psnr_train"}
"""What was measured on data that were not trained on, and the curve that it stands beside."""
ACROSS = 3
WIDE, HIGH = 4.2, 3.0
"""Inches of one curve."""
ROW = 0.55
"""Inches of one metric."""
LEAST = 0.02
"""Half of the least width of a row, as a share of its value."""
DPI = 110


def draw_training(run: Path, out: Path | None = None) -> Path | None:
    """Draw what a run's `metrics.jsonl` tells over its steps: losses and what else was measured.

    Values of training and of held-out data share a panel; each stage of a training has panels of its own.

    Args:
        run: the run folder.
        out: the PNG; by default `curves.png` in the run folder.

    Returns:
        The picture, or None where there is nothing to draw yet.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    panels = read_curves(run / METRICS)
    if not panels:
        return None
    across = min(ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    figure = _figure(WIDE * across, HIGH * down)
    for number, (title, curves) in enumerate(panels.items(), start=1):
        axis = figure.add_subplot(down, across, number)
        for name, points in curves.items():
            steps, values = zip(*points, strict=True)
            marked = name in HELD_OUT or len(steps) == 1  # a line through one point is not seen
            axis.plot(steps, values, marker="o" if marked else None, markersize=3, label=name)
            if name in HELD_OUT and steps[0] == 0:
                axis.axhline(values[0], color="grey", linestyle=":", label="before training")
        if all(value > 0 for points in curves.values() for _, value in points) and "loss" in title:
            axis.set_yscale("log")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=8)
    return _write(figure, out or run / FILE)


def read_curves(path: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Panel -> curve -> (step, value) of the finite numbers in the lines of a `metrics.jsonl`."""
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for line in read_lines(path):
        for name, value in line.items():
            if name in BOOKKEEPING or not isinstance(value, (int, float)) or not math.isfinite(value):
                continue
            title = ", ".join(filter(None, (HELD_OUT.get(name, name), line.get("stage"))))
            panels.setdefault(title, {}).setdefault(name, []).append((line["step"], value))
    # A loss of one part is that part: it would be drawn twice.
    for title in [t for t, curves in panels.items() if len(curves) == 1]:
        (points,) = panels[title].values()
        whole = f"loss, {title.rpartition(', ')[2]}"
        if title != whole and panels.get(whole, {}).get("loss") == points:
            del panels[title]
    return dict(sorted(panels.items(), key=lambda panel: "loss" not in panel[1]))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, none where there is no file; one cut short by a kill is left out."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            found.append(json.loads(text))
    return found


def draw_metrics(report: Mapping[str, Any], out: Path) -> Path:
    """Draw the values of an evaluation with their intervals, a row each, beside those compared with.

    Args:
        report: what `gen3d.evaluate.evaluate` returns.
        out: the PNG.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    rows = {name: metric for name, metric in report["metrics"].items() if metric["value"] is not None}
    figure = _figure(7.5, ROW * len(rows) + 0.6)
    others = report.get("compared", {})
    axes = figure.subplots(max(1, len(rows)), 1, squeeze=False)[:, 0]
    for axis, (name, metric) in zip(axes, rows.items(), strict=False):
        value, interval = metric["value"], metric.get("interval")
        if interval is not None:
            axis.plot(interval, [0, 0], color="C0", linewidth=6, alpha=0.35, solid_capstyle="butt")
        axis.plot([value], [0], "o", color="C0", label="these samples")
        for number, (other, values) in enumerate(others.items(), start=1):
            place = [values[name]] if name in values else []
            axis.plot(
                place,
                [0] * len(place),
                "|",
                color=f"C{number}",
                markersize=16,
                markeredgewidth=2.5,
                label=other,
            )
        if isinstance(metric["better"], (int, float)):
            axis.axvline(metric["better"], color="grey", linestyle=":", label="best")
        axis.set_yticks([0], [f"{name}  {value:.4g}"])
        low, high = axis.get_xlim()
        least = LEAST * abs(value) or LEAST
        axis.set_xlim(min(low, value - least), max(high, value + least))
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3, axis="x")
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    if rows and others:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", fontsize=8, ncols=3)
    return _write(figure, out)


def read_values(source: str) -> dict[str, float]:
    """The measured values of a `metrics.json`, or those in the model card of a checkpoint.

    Args:
        source: path of a file that `gen3d evaluate` wrote, or a checkpoint: a domain's name, a folder or a
            hub id.

    Raises:
        Gen3dError: there are none.
    """
    path = Path(source)
    if path.suffix == ".json":
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["metrics"]
            values = {name: metric["value"] for name, metric in found.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Gen3dError(f"{source} is no file that gen3d evaluate wrote: {error}") from error
    else:
        values = card_metrics(locate(source) / checkpoint.CARD)
    values = {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}
    if not values:
        raise Gen3dError(
            f"{source} holds no measured values; name a metrics.json or a checkpoint with a model card"
        )
    return values


def drawn(draw: Any, *arguments: Any) -> Path | None:
    """What one of the functions above returns, or None where matplotlib is not installed: a picture that was
    not asked for is no reason to fail."""
    try:
        return draw(*arguments)
    except MissingExtra:
        return None


def _figure(width: float, height: float) -> Any:
    # Not pyplot: nothing of it is shown, and no window system is asked for.
    return require("matplotlib.figure", "train").Figure(figsize=(width, height), layout="constrained")


def _write(figure: Any, out: Path) -> Path:
    with atomic_write(out) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
    return out
