"""Write the measured numbers of benchmarks/*.json into the README, the pages and the model cards.

python scripts/fill_tables.py

A table stands between `<!-- table NAME -->` and `<!-- end -->`; NAME is a key of `TABLES`. The metrics in the
front matter of a model card are replaced as well. Nothing else of a file changes.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CARDS = {
    name: ROOT / "gen3d" / "weights" / name / "README.md"
    for name in ("molecule", "crystal", "shape", "shape-voxels", "scene-prior", "image", "object")
}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *CARDS.values()]
TABLE = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
METRICS = re.compile(r"    metrics:\n(?:    - .*\n)+")


def report(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def rows(*lines: tuple[str, ...]) -> str:
    """A Markdown table; the first line is its head."""
    head, *body = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ("---",) * len(head), *body)) + "\n"


def quality(name: str, *, definitions: bool) -> str:
    found = {key: metric for key, metric in report(name)["metrics"].items() if metric["value"] is not None}
    lines = [("metric", "value", "95% interval", "definition")]
    for key, metric in found.items():
        between = "{:.4g} to {:.4g}".format(*metric["interval"]) if metric.get("interval") else ""
        lines.append((key, f"{metric['value']:.4g}", between, metric["definition"].replace("|", "/")))
    return rows(*(line if definitions else line[:3] for line in lines))


def chosen(name: str, prefix: str, *, definitions: bool = True) -> str:
    """The metrics of a report whose names begin with `prefix`."""
    lines = [("metric", "value", "definition")]
    for key, metric in report(name)["metrics"].items():
        if key.startswith(prefix) and not key.endswith("_of_all") and metric["value"] is not None:
            lines.append((key, f"{metric['value']:.4g}", metric["definition"].replace("|", "/")))
    return rows(*(line if definitions else line[:2] for line in lines))


def side_by_side(name: str) -> str:
    """PSNR of every scene by every method, and below it the means of all that was measured."""
    found = report(name)["rows"]
    variants = list(dict.fromkeys(row["variant"] for row in found))
    scenes: dict[str, dict[str, dict[str, float]]] = {}
    for row in found:
        scenes.setdefault(row["scene"], {})[row["variant"]] = row
    lines = [("scene", *variants)]
    for scene, of in scenes.items():
        lines.append((scene, *(f"{of[v]['psnr']:.2f}" if v in of else "" for v in variants)))
    whole = {scene: of for scene, of in scenes.items() if len(of) == len(variants)}
    for key in [key for key in found[0] if key not in ("scene", "variant")]:
        means = (sum(of[variant][key] for of in whole.values()) / len(whole) for variant in variants)
        lines.append((f"mean {key}", *(f"{value:.4g}" for value in means)))
    return rows(*lines)


def few_views(name: str) -> str:
    """PSNR of every scene and number of pictures by every variant."""
    found = report(name)["rows"]
    variants = list(dict.fromkeys(row["variant"] for row in found))
    table: dict[tuple[str, int], dict[str, float]] = {}
    for row in found:
        table.setdefault((row["scene"], row["views"]), {})[row["variant"]] = row["psnr"]
    lines = [("scene", "pictures", *variants)]
    for (scene, views), of in table.items():
        lines.append((scene, str(views), *(f"{of[v]:.2f}" if v in of else "" for v in variants)))
    return rows(*lines)


def dynamic_scenes(name: str) -> str:
    found = report(name)["rows"]
    keys = [key for key in found[0] if key not in ("scene", "variant")]
    lines = [("scene", "variant", *keys)]
    for row in found:
        lines.append((row["scene"], row["variant"], *(f"{row[key]:.4g}" for key in keys)))
    return rows(*lines)


def ablations(name: str) -> str:
    variants = report(name)["variants"]
    keys = list(next(iter(variants.values())))
    lines = [("variant", *keys)]
    for variant, found in variants.items():
        lines.append((variant, *("-" if found[key] is None else f"{found[key]:.4g}" for key in keys)))
    return rows(*lines)


def few_steps(name: str) -> str:
    """Quality by the number of steps, without and with having learnt long ones."""
    found = report(name)
    lines = [("steps", *(f"{key}, {of}" for key in found["metrics"] for of in ("shipped", "shortcut")))]
    for steps in found["plain"]:
        values = [found[of][steps][key] for key in found["metrics"] for of in ("plain", "few")]
        lines.append((steps, *(f"{value:.3g}" for value in values)))
    return rows(*lines)


def joint() -> str:
    """One model of both beside one of each."""
    found = report("joint")
    lines = [("", "joint", "alone")]
    for domain in ("molecule", "crystal"):
        for key, alone in found[domain][domain].items():
            together = found["joint"][domain][key]
            lines.append((f"{domain}: {key}", f"{together:.4g}", f"{alone:.4g}"))
    return rows(*lines, ("minutes of training", *(f"{found[m]['minutes']:g}" for m in ("joint", "molecule"))))


def one_decimal(name: str) -> Callable[[str], str]:
    """The metrics of a report by key, as text."""
    metrics = report(name)["metrics"]
    return lambda key: f"{metrics[key]['value']:.1f}"


def text_to_3d(name: str) -> str:
    """Views that judges find right, for every prompt, and below them the shares of all."""
    found = report(name)
    bounds = report("views_around")
    beside = {row["prompt"]: row for row in bounds["rows"]}
    heads = (
        "class, % of views",
        "of the mesh it began as",
        "of the prior's pictures",
        "of real meshes",
        "colour, % of views",
        "seconds",
    )
    kinds = ("class", "start", "prior", "real", "colour")
    lines = [("prompt", *heads)]
    for row in found["rows"]:
        if row["camera"]:
            row = {**row, **beside[row["prompt"]], "start_views": row["start_class_views"]}
            keys = (*(f"{kind}_views" for kind in kinds), "seconds")
            lines.append((row["prompt"], *(f"{row[key]:.0f}" if key in row else "" for key in keys)))
    row = {**found, **bounds}
    shares = (*(f"{kind}_right_from_most_views" for kind in kinds), "seconds")
    lines.append(("right from most views, % of prompts", *(f"{row[key]:.0f}" for key in shares)))
    return rows(*lines)


def sketches(name: str) -> str:
    """How much of every sketch is filled, by strictness."""
    found = report(name)["rows"]
    levels = sorted({row["strictness"] for row in found}, reverse=True)
    overlap = {(row["sketch"], row["strictness"]): row["overlap"] for row in found}
    lines = [("sketch", *(f"strictness {level:g}" for level in levels))]
    for sketch in dict.fromkeys(row["sketch"] for row in found):
        values = (overlap.get((sketch, level)) for level in levels)
        lines.append((sketch, *("" if value is None else f"{value:.2f}" for value in values)))
    return rows(*lines)


def edits(name: str) -> str:
    """Every edit: what it changed, before and after it was kept to its words, and what judges see."""
    keys = ("outside_unrefined", "outside_refined", "features_unrefined", "features_refined")
    shown = {row["edit"]: row for row in report(name)["rows"] if row["variant"] == "volume"}
    lines = [("edit", *(key.replace("_", ", ") for key in keys), "class, % of views", "colour, % of views")]
    for edit, row in shown.items():
        values = (f"{row[key]:.3f}" if key in row else "" for key in keys)
        seen = (f"{row[key]:.0f}" if key in row else "" for key in ("class_views", "colour_views"))
        lines.append((edit, *values, *seen))
    return rows(*lines)


def edit_ablations(name: str) -> str:
    """Means over the local edits by regulariser."""
    found = {variant: of for variant, of in report(name).items() if isinstance(of, dict) and of}
    keys = list(next(iter(found.values())))
    lines = [("regulariser", *(key.replace("_", ", ") for key in keys))]
    lines += [(variant, *(f"{of[key]:.3f}" for key in keys)) for variant, of in found.items()]
    return rows(*lines)


def cameras_told(name: str) -> str:
    """Views of every prompt that judges find right and how alike opposite ones are, with and without."""
    found: dict[str, dict[bool, dict[str, float]]] = {}
    for row in report(name)["rows"]:
        found.setdefault(row["prompt"], {})[row["camera"]] = row
    kinds = {"class_views": "class, %", "opposite_alike": "opposite views alike"}
    lines = [("prompt", *(f"{shown}, {how}" for shown in kinds.values() for how in ("told", "not told")))]
    for prompt, of in found.items():
        values = [of[told].get(key) for key in kinds for told in (True, False)]
        lines.append((prompt, *("" if value is None else f"{value:.3g}" for value in values)))
    return rows(*lines)


def molecules_beside_adit() -> str:
    value, codec = one_decimal("molecule_quality"), report("molecule_reconstruction")
    return rows(
        ("", "gen3d, shipped", "ADiT, QM9 only"),
        ("validity (DetermineBonds, connected), %", value("validity"), "92.2"),
        ("uniqueness among valid, %", value("uniqueness"), "97.8"),
        ("novelty among unique valid, %", value("novelty"), ""),
        ("atom stability (EDM rule), %", value("atom_stability"), ""),
        ("molecule stability (EDM rule), %", value("molecule_stability"), ""),
        ("reconstruction: match, %", f"{codec['match_percent']:.1f}", "97.2"),
        ("reconstruction: RMSD, angstrom", f"{codec['rmsd']:.3f}", "0.075"),
        ("parameters", "4.6 M", "84 M"),
    )


def crystals_beside_adit() -> str:
    value = one_decimal("crystal_quality")
    return rows(
        ("", "gen3d, shipped", "ADiT (novelty and uniqueness: its joint model)"),
        ("overall validity (0.5 angstrom and SMACT), %", value("validity"), "90.1"),
        ("structural validity, %", value("structure_validity"), "99.6"),
        ("composition validity, %", value("composition_validity"), "90.5"),
        (
            "novelty (StructureMatcher) among valid, %",
            value("valid_novelty"),
            "26 (LeMat-GenBench, another reference set)",
        ),
        ("distinct, valid and novel, of all samples, %", value("valid_unique_novel"), ""),
        ("composition uniqueness, %", value("composition_uniqueness"), "77"),
        ("parameters", "4.4 M", "180 M"),
    )


TABLES: dict[str, Callable[[], str]] = {
    "molecules_beside_adit": molecules_beside_adit,
    "crystals_beside_adit": crystals_beside_adit,
    "molecule_quality": lambda: quality("molecule_quality", definitions=False),
    "crystal_quality": lambda: quality("crystal_quality", definitions=False),
    "molecule_quality_defined": lambda: quality("molecule_quality", definitions=True),
    "crystal_quality_defined": lambda: quality("crystal_quality", definitions=True),
    "molecule_posebusters": lambda: chosen("molecule_posebusters", "posebusters", definitions=False),
    "molecule_xtb": lambda: chosen("molecule_xtb", "xtb"),
    "crystal_energy": lambda: chosen("crystal_energy", "chgnet"),
    "structure_prediction": lambda: chosen("structure_prediction", ""),
    "molecule_ablations": lambda: ablations("molecule_ablations"),
    "crystal_ablations": lambda: ablations("crystal_ablations"),
    "crystal_ablations_long": lambda: ablations("crystal_ablations_long"),
    "shape_quality": lambda: quality("shape_quality", definitions=False),
    "shape_quality_defined": lambda: quality("shape_quality", definitions=True),
    "shape_voxels_quality": lambda: quality("shape_voxels_quality", definitions=False),
    "shape_voxels_quality_defined": lambda: quality("shape_voxels_quality", definitions=True),
    "shape_chairs": lambda: quality("shape_chairs", definitions=False),
    "shape_other": lambda: quality("shape_other", definitions=False),
    "shape_test": lambda: quality("shape_test", definitions=False),
    "shape_ablations": lambda: ablations("shape_ablations"),
    "shape_few_steps": lambda: few_steps("shape_few_steps"),
    "joint": joint,
    "dynamic_scenes": lambda: side_by_side("dynamic_scenes"),
    "dynamic_scenes_400": lambda: side_by_side("dynamic_scenes_400"),
    "few_views": lambda: few_views("few_views"),
    "scene_prior_quality": lambda: quality("scene_prior_quality", definitions=False),
    "scene_prior_quality_defined": lambda: quality("scene_prior_quality", definitions=True),
    "image_quality": lambda: quality("image_quality", definitions=False),
    "image_quality_defined": lambda: quality("image_quality", definitions=True),
    "object_quality_defined": lambda: quality("object_quality", definitions=True),
    "text_to_3d": lambda: text_to_3d("text_to_3d"),
    "janus": lambda: cameras_told("janus"),
    "sketches": lambda: sketches("sketches"),
    "edits": lambda: edits("edits"),
    "edit_ablations": lambda: edit_ablations("edits"),
    "real_scene": lambda: side_by_side("real_scene"),
    "static_scene": lambda: dynamic_scenes("static_scene"),
    "dynamic_ablations": lambda: dynamic_scenes("dynamic_ablations"),
}


def main() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = TABLE.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], text)
        if new != text:
            page.write_text(new, encoding="utf-8")
            print(page.relative_to(ROOT))
    for name, card in CARDS.items():
        text = card.read_text(encoding="utf-8")
        head, *rest = METRICS.split(text, maxsplit=1)
        card.write_text(head + front_matter(name) + "".join(rest), encoding="utf-8")


def front_matter(name: str) -> str:
    """The lines from which the hub and `gen3d info` read a checkpoint's numbers."""
    lines = ["    metrics:"]
    for key, metric in report(f"{name.replace('-', '_')}_quality")["metrics"].items():
        if metric["value"] is not None and "[" not in key:
            lines.append(f"    - {{type: {key}, value: {metric['value']:.6g}}}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
