"""`gen3d view`: look at results in the browser."""

import time
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from gen3d.errors import Gen3dError


@dataclass(frozen=True)
class View:
    """Look at files and runs in the browser, several side by side."""

    paths: Positional[list[Path]]
    """Files (SDF, XYZ, CIF, PLY, OBJ, GLB, NPZ, PNG and more), folders of them, and runs of scenes."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 lets other machines look, too."""
    port: int = 8080
    """Where to listen; the next free port where it is taken."""
    open: bool = True
    """Open the page in this machine's browser."""

    def run(self) -> None:
        from gen3d.viewer import open_page

        if not 0 < self.port < 65536:
            raise Gen3dError(f"--port is {self.port}; allowed: 1 to 65535")
        page = open_page(self.paths, self.host, self.port)
        print(f"{page.address}  (Ctrl-C ends)", flush=True)
        if self.open:
            import webbrowser

            webbrowser.open(page.address)
        try:
            while True:
                time.sleep(1)
        finally:
            page.close()
