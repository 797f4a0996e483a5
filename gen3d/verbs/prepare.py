"""`gen3d prepare`: data into arrays."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Suppress

from gen3d import domains
from gen3d.errors import Gen3dError
from gen3d.verbs.terminal import check_writable, show_progress


@dataclass(frozen=True)
class Prepare:
    """Turn a data set into the arrays that training reads."""

    domain: str | None = None
    """What the data are: molecule, crystal, shape, image, object, scene-prior, dynamic-scene, or another
    package's."""
    source: str | None = None
    """qm9, mp-20, sweethome3d or a scene of D-NeRF (fetched); a file or folder of structures or shapes; or an
    animated mesh, which is filmed."""
    out: Path | None = None
    """Folder to write."""
    check: Path | None = None
    """A capture of one's own (folder or file): says what is wrong with it, and draws its cameras."""
    limit: int | None = None
    """Keep only the first that many entries."""
    seed: int = 0
    """Seed of the split into train, valid and test where the source defines none."""
    quiet: bool = False
    """Show no progress."""
    json: bool = False
    """Print what was written, as JSON."""

    options: Suppress[Any] = None

    def run(self) -> None:
        if self.check is not None:
            return self._check(self.check)
        if self.domain is None or self.source is None or self.out is None:
            missing = next(n for n in ("domain", "source", "out") if getattr(self, n) is None)
            raise Gen3dError(f"--{missing} is missing; or --check a capture")
        check_writable(self.out / "data")
        progress = show_progress(self.quiet)
        domain = domains.find(self.domain)
        asked = {} if self.options is None else {"options": self.options}
        settings = {"limit": self.limit, "seed": self.seed, "progress": progress, **asked}
        summary = domain.prepare(self.source, self.out, **settings)
        if self.json:
            print(json.dumps({"out": str(self.out), "entries": summary}))
        elif not self.quiet:
            print(f"{self.out}: {summary}")

    def _check(self, capture: Path) -> None:
        """Say what is wrong with a capture, and draw its cameras beside it."""
        from gen3d.captures.check import check_capture

        picture = self.out or capture.with_name(f"{capture.stem}.cameras.png")
        check_writable(picture)
        report = check_capture(capture, picture)
        print(report)
        print(f"cameras: {picture}")
        if not report.ok:
            raise Gen3dError(f"{capture} cannot be read as it is; see the errors above")
