"""`gen3d evaluate`: measure samples."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gen3d.verbs.terminal import check_writable, show_progress


@dataclass(frozen=True)
class Evaluate:
    """Measure samples against a reference set; prints a table and writes metrics.json."""

    domain: str
    """What the samples are: molecule, crystal, shape, image, scene-prior, dynamic-scene, latent-nerf,
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
    report: bool = False
    """Write report.html beside the measurements, with samples to look at; it opens anywhere, also offline."""
    quiet: bool = False
    """Show no progress."""

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
            progress=show_progress(self.quiet),
        )
        if self.report:
            from gen3d import domains, io
            from gen3d.domains.base import SceneDomain
            from gen3d.report import write_report

            title = f"{self.domain}: {self.samples.name}"
            scenes = issubclass(domains.find(self.domain), SceneDomain)
            shown = [] if scenes else io.read(self.samples)
            page = write_report(out.with_name("report.html"), title, shown, metrics=found)
            print(f"report: {page}")
