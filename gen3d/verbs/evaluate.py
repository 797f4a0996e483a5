"""`gen3d evaluate`: measure samples."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gen3d.verbs.terminal import check_writable, show_progress


@dataclass(frozen=True)
class Evaluate:
    """Measure samples against a reference set; prints a table and writes metrics.json."""

    domain: str
    """What the samples are: molecule, crystal, shape, image, object, scene-prior, dynamic-scene, latent-nerf,
    voxel-edit, or another package's."""
    samples: Path
    """File or folder of samples."""
    reference: str
    """Prepared data, usually what was trained on: a folder, or its name under ./data (or $GEN3D_DATA)."""
    out: Path | None = None
    """File to write; by default metrics.json beside the samples."""
    limit: int | None = None
    """Measure only the first that many samples."""
    workers: int | None = None
    """Processes; by default one per core."""
    checks: dict[str, Any] = field(default_factory=dict)
    """Slower measurements to add, such as posebusters or xtb=100."""
    compare: tuple[str, ...] = ()
    """Show values of others beside these: metrics.json files, or checkpoints whose model card has some, such
    as molecule."""
    report: bool = False
    """Write report.html beside the measurements, with samples to look at; it opens anywhere, also offline."""
    quiet: bool = False
    """Show no progress."""
    json: bool = False
    """Print the measurements as JSON in place of the table."""

    def run(self) -> None:
        from gen3d.evaluate import evaluate

        out = self.out or (self.samples if self.samples.is_dir() else self.samples.parent) / "metrics.json"
        check_writable(out)
        found = evaluate(
            self.domain,
            self.samples,
            self.reference,
            out=out,
            checks=self.checks,
            workers=self.workers,
            limit=self.limit,
            compare=self.compare,
            table=not self.json,
            progress=show_progress(self.quiet),
        )
        page = _write_report(self.domain, self.samples, found, out) if self.report else None
        if self.json:
            print(json.dumps(found))
        elif page is not None:
            print(f"report: {page}")


def _write_report(domain: str, samples: Path, found: dict[str, Any], out: Path) -> Path:
    """The page and its picture, beside the measurements."""
    from gen3d import domains, io
    from gen3d.curves import draw_metrics, drawn
    from gen3d.domains.base import SceneDomain
    from gen3d.report import turning, write_report

    cls: Any = domains.find(domain)
    scene = issubclass(cls, SceneDomain)
    shown = [] if scene else io.read(samples)
    drawings = turning(cls, cls.load(samples)) if scene else {}
    if (picture := drawn(draw_metrics, found, out.with_suffix(".png"))) is not None:
        drawings["Values and their intervals"] = picture.read_bytes()
    title = f"{domain}: {samples.name}"
    return write_report(out.with_name("report.html"), title, shown, metrics=found, drawings=drawings)
