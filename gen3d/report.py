"""One page about some samples that opens anywhere, also offline: what they look like, what was measured, and
how they were made."""

import base64
import html
import io
import json
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from gen3d.errors import require
from gen3d.evaluate import WORDS, table_rows
from gen3d.files import atomic_write
from gen3d.media import gif
from gen3d.viz import MOST, figure, film, kind_of

PICTURES = 24
"""Pictures that are shown of a list of them."""
TURN, TURN_WIDTH, TURN_SECONDS = 24, 240, 4.0
"""Pictures of a film around a scene, their width in pixels, and how long going around takes."""
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1000px; margin: 2rem auto; }
body { padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { border-bottom: 1px solid #ddd; padding: .25rem .75rem .25rem 0; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; image-rendering: auto; }
pre { background: #f5f5f5; padding: .75rem; overflow-x: auto; }
"""


def write_report(
    path: Path,
    title: str,
    objects: Sequence[Any] = (),
    *,
    metrics: Mapping[str, Any] | None = None,
    record: Mapping[str, Any] | None = None,
    drawings: Mapping[str, bytes] | None = None,
) -> Path:
    """Write the page, a single HTML file.

    Args:
        path: of the file.
        title: of the page.
        objects: native objects, of which the first nine can be turned; None is a failed one.
        metrics: what `gen3d.evaluate.evaluate` returns.
        record: how the objects were made, as in samples.json.
        drawings: PNG or GIF by title.

    Raises:
        MissingExtra: plotly is not installed.
    """
    made = [thing for thing in objects if thing is not None]
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if objects:
        parts.append(_samples(made, len(objects)))
    if metrics is not None:
        parts += ["<h2>Measured</h2>", _measured(metrics)]
    for name, drawing in (drawings or {}).items():
        parts += [f"<h2>{html.escape(name)}</h2>", _image(drawing)]
    if record is not None:
        parts += ["<h2>How it was made</h2>", _made(record)]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    page = f"<!doctype html>\n<html><head>{head}</head>\n<body>\n{chr(10).join(parts)}\n</body></html>\n"
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def turning(domain: Any, scene: Any) -> dict[str, bytes]:
    """The drawing of a scene for its page: a film around it.

    Args:
        domain: the `SceneDomain` of the scene.
        scene: one of its scenes.
    """
    return {"From all around": gif(domain.turntable(scene, TURN, TURN_WIDTH), TURN_SECONDS)}


def _samples(made: Sequence[Any], count: int) -> str:
    if not made:
        return "<p>There are no samples to show.</p>"
    kinds = {kind_of(thing) for thing in made[:MOST]}
    if kinds == {"Image"}:
        shown = made[:PICTURES]
        drawn = "".join(_image(_png(picture)) for picture in shown)
    elif kinds == {"Scene"}:
        shown = made[:MOST]
        drawn = "".join(_image(film(scene).gif) for scene in shown)
    else:
        shown = made[:MOST]
        script = require("plotly.offline", "viewer").get_plotlyjs()
        plot = figure(shown).to_html(full_html=False, include_plotlyjs=False)
        drawn = f"<script>{script}</script>{plot}"
    failed = "" if len(made) == count else f" ({count - len(made)} failed)"
    return f"<p>{len(shown)} of {count} samples{failed}:</p>{drawn}"


def _png(picture: Any) -> bytes:
    written = io.BytesIO()
    picture.save(written, "PNG")
    return written.getvalue()


def _image(drawing: bytes) -> str:
    kind = "gif" if drawing.startswith(b"GIF") else "png"
    return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(drawing).decode()}">'


def _measured(report: Mapping[str, Any]) -> str:
    names, *rows = table_rows(report)
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    numbers = [column for column, name in enumerate(names) if name not in WORDS]
    lines = [f"<tr>{heads}</tr>", *(_row(row, numbers) for row in rows)]
    about = (
        f"{report['n_samples']} samples, {report['n_failed']} of them failed, against {report['reference']}"
    )
    return f"<p>{html.escape(about)}</p><table>{''.join(lines)}</table>"


def _made(record: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in record.items() if not isinstance(value, (dict, list))}
    table = "".join(_row((name, value)) for name, value in plain.items())
    whole = html.escape(json.dumps(record, indent=2, default=str))
    return f"<table>{table}</table><details><summary>all of it</summary><pre>{whole}</pre></details>"


def _row(cells: Sequence[Any], numbers: Container[int] = ()) -> str:
    made = []
    for number, cell in enumerate(cells):
        kind = ' class="number"' if number in numbers else ""
        made.append(f"<td{kind}>{html.escape(str(cell))}</td>")
    return f"<tr>{''.join(made)}</tr>"
