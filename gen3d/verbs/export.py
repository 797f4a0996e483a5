"""`gen3d export`: one format into another."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from gen3d import io
from gen3d.verbs.terminal import check_writable


@dataclass(frozen=True)
class Export:
    """Convert a file of samples to another format; the extensions pick the formats."""

    source: Positional[Path]
    """File to read."""
    target: Positional[Path]
    """File to write."""

    def run(self) -> None:
        io.format_of(self.target, "write")
        check_writable(self.target)
        objects = io.read(self.source)
        files = io.write(objects, self.target)
        last = f" to {files[-1].name}" if len(files) > 1 else ""
        print(f"{len(objects)} objects -> {files[0]}{last}")
