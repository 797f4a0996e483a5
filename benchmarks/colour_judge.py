"""The judge of colours on renders of real things: how often it finds their colour, and how often another one.

python benchmarks/colour_judge.py --data data/images --out benchmarks/colour_judge.json
"""

import argparse
import json
from pathlib import Path

import numpy as np

from gen3d.colours import NAMED
from gen3d.domains.images.dataset import open_dataset
from gen3d.files import atomic_write
from gen3d.judges import MOST, colour_shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="what gen3d prepare --domain image wrote")
    parser.add_argument("--n", type=int, default=500, help="pictures at most")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    data = open_dataset(arguments.data, "valid", 0)
    rows = [
        row
        for row in range(len(data))
        if not data.other[row] and plainly(data.captions[row][0], str(data.colour[row]))
    ]
    rows = [rows[k] for k in np.random.default_rng(0).permutation(len(rows))[: arguments.n]]
    found = {name: [0, 0, 0] for name in NAMED}  # pictures of it, those found in it, those found elsewhere
    for row in rows:
        shares = colour_shares(data.images[row])
        seen = {name for name in NAMED if shares.get(name, 0.0) >= MOST}
        own = str(data.colour[row])
        found[own][0] += 1
        found[own][1] += own in seen
        for name in seen - {own}:
            found[name][2] += 1
    report = {
        "pictures": len(rows),
        "right": 100 * sum(own for _, own, _ in found.values()) / len(rows),
        "false": 100 * sum(other for *_, other in found.values()) / (len(rows) * (len(NAMED) - 1)),
        "by_colour": {
            name: {"pictures": count, "right": 100 * own / count, "false": 100 * other / (len(rows) - count)}
            for name, (count, own, other) in found.items()
            if count
        },
    }
    with atomic_write(arguments.out) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"right {report['right']:.1f}%, another colour {report['false']:.1f}% of {len(rows)} pictures")


def plainly(caption: str, colour: str) -> bool:
    """Whether a caption tells one colour and nothing else of how a thing looks."""
    words = caption.split()
    return words[1] == colour and words[2] not in ("and", *NAMED)


if __name__ == "__main__":
    main()
