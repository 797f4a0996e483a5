"""A page of results: objects of several files side by side, with what one may change about them."""

import contextlib
import io
import json
import math
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.errors import Gen3dError, require
from gen3d.files import atomic_write
from gen3d.scenes.scene import Scene
from gen3d.viewer.contents import Column, contents
from gen3d.viewer.drawing import Drawing, drawing
from gen3d.viewer.fields import Live, composed, pose

TOGETHER, MOST = 9, 36
"""Objects of one file that are shown at first, and at most."""
SPACE = 1.25
"""Distance between neighbours, in sizes of the largest."""
MOST_CELLS = 4
"""Of a crystal, along each side."""
FRAMES = 12
"""Of a scene that moves, a second."""
SECONDS = 4.0
"""It takes from its first time to its last."""
HEIGHT = 512
"""Of the pictures of a camera path, in pixels."""
FIELD_OF_VIEW = 0.7
"""Radians, from top to bottom."""
LOOK = np.array([0.6, -1.6, 0.7])
"""From where pages are seen at first."""


class Page:
    """Objects in a server of viser.

    Args:
        columns: one for each path.
        host: address to listen at.
        port: the first that is tried.

    Attributes:
        server: `viser.ViserServer`.
        standing: fields that are rendered, and where they stand.
    """

    def __init__(self, columns: Sequence[Column], host: str = "127.0.0.1", port: int = 8080) -> None:
        viser = require("viser", "viewer")
        self.columns = columns
        # Its greeting is not ours.
        with contextlib.redirect_stdout(io.StringIO()):
            self.server = viser.ViserServer(host=host, port=port, label="gen3d", verbose=False)
        self.host, self.port = host, self.server.get_port()
        self.lock = threading.Lock()
        self.live: dict[int, Live] = {}
        self.standing: list[tuple[Scene, np.ndarray]] = []
        self.parts: list[Any] = []
        self.kept: list[dict[str, Any]] = []
        self.server.scene.set_up_direction("+z")
        self.server.scene.configure_default_lights()
        self._controls()
        self.draw()
        self.server.on_client_connect(self._welcome)
        self.server.on_client_disconnect(self._leave)

    @property
    def address(self) -> str:
        return f"http://{'localhost' if self.host == '127.0.0.1' else self.host}:{self.port}"

    def close(self) -> None:
        """End the server."""
        for live in self.live.values():
            live.stop()
        self.playing.value = False
        self.server.stop()

    def _has(self, kind: str) -> bool:
        return any(any(k.__name__ == kind for k in type(o).__mro__) for c in self.columns for o in c.objects)

    def _controls(self) -> None:
        gui = self.server.gui
        most = max(len(column.objects) for column in self.columns)
        together = 1 if len(self.columns) > 1 or self._has("Scene") else min(TOGETHER, most)
        several, cells = most > 1, self._has("Structure")
        moves = any(isinstance(o, Scene) and o.moves for c in self.columns for o in c.objects)
        shapes = any(self._has(kind) for kind in ("PointCloud", "Trimesh", "VoxelGrid"))
        self.first = gui.add_slider("First", 0, max(most - 1, 1), 1, 0, visible=several)
        limit = max(2, min(MOST, most))
        self.together = gui.add_slider("Together", 1, limit, 1, together, visible=several)
        self.cells = gui.add_slider("Cells", 1, MOST_CELLS, 1, 1, visible=cells)
        self.up = gui.add_dropdown("Up", ("+y", "+z"), initial_value="+y", visible=shapes)
        self.time = gui.add_slider("Time", 0.0, 1.0, 0.01, 0.0, visible=moves)
        self.playing = gui.add_checkbox("Play", False, visible=moves)
        self.names = gui.add_markdown("")
        folder = gui.add_folder("Camera path", expand_by_default=False)
        with folder:
            keep = gui.add_button("Add this view")
            self.path = gui.add_text("File", "camera_path.json")
            write = gui.add_button("Write")
            self.told = gui.add_markdown("")
        for handle in (self.first, self.together, self.cells, self.up):
            handle.on_update(lambda _: self.draw())
        self.time.on_update(lambda _: self._moved())
        self.playing.on_update(lambda _: self._play())
        keep.on_click(self._keep)
        write.on_click(lambda _: self._write_path())

    def shown(self) -> list[list[tuple[str, Any]]]:
        """Rows of names and objects: of one path in a square, of several one column for each."""
        first, count = int(self.first.value), int(self.together.value)
        numbers = range(first, first + count)
        if len(self.columns) == 1:
            (column,) = self.columns
            own = [(f"{column.name} {n}", column.objects[n]) for n in numbers if n < len(column.objects)]
            across = max(1, math.ceil(math.sqrt(len(own))))
            return [own[start : start + across] for start in range(0, len(own), across)]
        return [
            [
                (f"{column.name} {n}" if len(column.objects) > 1 else column.name, column.objects[n])
                for column in self.columns
                if n < len(column.objects)
            ]
            for n in numbers
        ]

    def draw(self) -> None:
        """Put on the page what the controls ask for."""
        with self.lock, self.server.atomic():
            for part in self.parts:
                part.remove()
            self.parts = []
            standing: list[tuple[Scene, np.ndarray]] = []
            rows = self.shown()
            drawn = [[(name, self._drawing(thing)) for name, thing in row] for row in rows]
            sizes = [np.ptp(_upright(d), axis=0) for row in drawn for _, d in row]
            step = SPACE * max(float(np.max(sizes)) if sizes else 1.0, 1e-6)
            for i, row in enumerate(drawn):
                for k, (_, picture) in enumerate(row):
                    place = np.array(
                        [(k - (len(row) - 1) / 2) * step, 0.0, ((len(drawn) - 1) / 2 - i) * step]
                    )
                    shift = self._put(f"/shown/{i}_{k}", picture, place)
                    if isinstance(thing := rows[i][k][1], Scene):
                        standing.append((thing, shift))
            # At once: visitors' threads read it meanwhile.
            self.standing = standing
            across = max((len(row) for row in drawn), default=1)
            self.reach = step * max(across, len(drawn))
            listed = "; ".join(name for row in rows for name, _ in row)
            self.names.content = f"**{listed}**" if listed else "nothing left to show"
        self._moved()

    def _drawing(self, thing: Any) -> Drawing:
        if isinstance(thing, Scene):
            return Drawing(thing.field.box.numpy(), lambda scene, name: None)
        return drawing(thing, cells=int(self.cells.value), y_up=self.up.value == "+y")

    def _put(self, path: str, picture: Drawing, place: np.ndarray) -> np.ndarray:
        """Add an object with its middle at a place; returns how far it was moved."""
        points = _upright(picture)
        shift = place - (points.min(0) + points.max(0)) / 2
        api = self.server.scene
        self.parts.append(api.add_frame(path, show_axes=False, position=shift, wxyz=picture.turn))
        picture.add(api, path)
        return shift

    def _welcome(self, client: Any) -> None:
        distance = 0.75 * self.reach / math.tan(FIELD_OF_VIEW / 2)
        client.camera.fov = FIELD_OF_VIEW
        # A new position takes the point that is looked at along.
        client.camera.position = tuple(LOOK / np.linalg.norm(LOOK) * distance)
        client.camera.look_at = (0.0, 0.0, 0.0)
        if any(isinstance(o, Scene) for c in self.columns for o in c.objects):
            live = Live(
                lambda size: composed(self.standing, client.camera, float(self.time.value), size),
                client.scene.set_background_image,
            )
            self.live[client.client_id] = live
            client.camera.on_update(lambda _: live.move())
            live.move()

    def _leave(self, client: Any) -> None:
        live = self.live.pop(client.client_id, None)
        if live is not None:
            live.stop()

    def _moved(self) -> None:
        for live in list(self.live.values()):
            live.move()

    def _play(self) -> None:
        if not self.playing.value:
            return

        def turn() -> None:
            while self.playing.value:
                self.time.value = (float(self.time.value) + 1 / (FRAMES * SECONDS)) % 1.0
                self._moved()
                time.sleep(1 / FRAMES)

        threading.Thread(target=turn, daemon=True).start()

    def _keep(self, event: Any) -> None:
        self.keep(event.client.camera)
        self.told.content = f"{len(self.kept)} views"

    def keep(self, camera: Any) -> None:
        """Add a view to the path, in the frame of the first scene, if there is one."""
        place = self.standing[0][1] if self.standing else np.zeros(3)
        rows = [*pose(camera, place).tolist(), [0.0, 0.0, 0.0, 1.0]]
        self.kept.append(
            {
                "camera_to_world": [value for row in rows for value in row],
                "fov": math.degrees(float(camera.fov)),
                "aspect": float(camera.aspect),
                "render_time": float(self.time.value),
            }
        )

    def write_path(self, target: Path) -> None:
        """Write the views as nerfstudio's camera paths are written."""
        path = {
            "camera_type": "perspective",
            "render_height": HEIGHT,
            "render_width": round(HEIGHT * self.kept[0]["aspect"]),
            "fps": FRAMES,
            "seconds": len(self.kept) / FRAMES,
            "is_cycle": False,
            "camera_path": self.kept,
        }
        with atomic_write(target) as temporary:
            temporary.write_text(json.dumps(path, indent=2) + "\n", encoding="utf-8")

    def _write_path(self) -> None:
        if not self.kept:
            self.told.content = "no views yet: move the camera, then press *Add this view*"
            return
        target = Path(self.path.value)
        try:
            self.write_path(target)
        except OSError as error:
            self.told.content = f"cannot write {target}: {error.strerror}"
            return
        self.told.content = f"{len(self.kept)} views in {target}"


def _upright(picture: Drawing) -> np.ndarray:
    """Its points, turned as it will be."""
    w, x, y, z = picture.turn
    v = np.array([x, y, z])
    points = np.asarray(picture.points, float)
    return points + 2 * np.cross(v, np.cross(v, points) + w * points)


def open_page(paths: Sequence[Path], host: str = "127.0.0.1", port: int = 8080) -> Page:
    """A page of what the paths hold.

    Args:
        paths: files, folders of files, runs and checkpoints of scenes.
        host: address to listen at; other machines see nothing of 127.0.0.1.
        port: the first that is tried; a free one above is taken where it is not.

    Raises:
        Gen3dError: there are no paths, one of them holds nothing that can be shown, or this machine has no
            such address.
        MissingExtra: viser is not installed.
    """
    if not paths:
        raise Gen3dError("no path is given; name files or folders to look at")
    try:
        with socket.socket() as trial:
            trial.bind((host, 0))
    except OSError as error:
        raise Gen3dError(
            f"cannot listen at {host!r}: {error.strerror}; 127.0.0.1 is for this machine, 0.0.0.0 for all"
        ) from error
    return Page([column for path in paths for column in contents(path)], host, port)
