"""Draw what the shipped models of shapes make, and the training shapes nearest to it.

python scripts/draw_shapes.py --data data/sweethome3d

Writes docs/assets/shapes.png (two rows of clouds, one of meshes; nothing is picked out) and
docs/assets/shape_neighbours.png (samples above, below each the nearest training shape by Chamfer distance).
"""

import argparse
from pathlib import Path

import numpy as np
import trimesh

import gen3d
from gen3d.domains.shapes.contact_sheet import contact_sheet
from gen3d.domains.shapes.dataset import open_dataset
from gen3d.domains.shapes.metrics.distances import chamfer_matrix

ASSETS = Path(__file__).parents[1] / "docs" / "assets"
COLUMNS = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="prepared furniture")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    clouds = gen3d.load("shape", "cpu").sample(2 * COLUMNS, seed=args.seed)
    meshes = gen3d.load("shape-voxels", "cpu").sample(COLUMNS, seed=args.seed)
    contact_sheet([*clouds, *meshes], ASSETS / "shapes.png", columns=COLUMNS, size=160)

    samples = [np.asarray(cloud.vertices) for cloud in clouds[:COLUMNS]]
    training = open_dataset(args.data, "train")
    known = [training[i].points[: len(samples[0])] for i in range(len(training))]
    nearest = chamfer_matrix(samples, known, workers=0).argmin(1)
    neighbours = [trimesh.PointCloud(known[i]) for i in nearest]
    contact_sheet(
        [*clouds[:COLUMNS], *neighbours], ASSETS / "shape_neighbours.png", columns=COLUMNS, size=160
    )


if __name__ == "__main__":
    main()
