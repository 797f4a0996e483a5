"""`gen3d prepare`: data into arrays."""

from dataclasses import dataclass
from pathlib import Path

from gen3d import domains
from gen3d.verbs.terminal import check_writable, show_progress


@dataclass(frozen=True)
class Prepare:
    """Turn a data set into the arrays that training reads."""

    domain: str
    """What the data are: molecule, crystal, shape, or a domain of another package."""
    source: str
    """qm9, mp-20 or sweethome3d (fetched), or a file or folder of structures or shapes."""
    out: Path
    """Folder to write."""
    limit: int | None = None
    """Keep only the first that many entries."""
    seed: int = 0
    """Seed of the split into train, valid and test where the source defines none."""
    quiet: bool = False
    """Show no progress."""

    def run(self) -> None:
        check_writable(self.out / "data")
        progress = show_progress(self.quiet)
        domain = domains.find(self.domain)
        summary = domain.prepare(self.source, self.out, limit=self.limit, seed=self.seed, progress=progress)
        if not self.quiet:
            print(f"{self.out}: {summary}")
