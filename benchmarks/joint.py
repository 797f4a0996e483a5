"""One model of molecules and crystals beside one of each, small ones trained on one thread.

python benchmarks/joint.py --molecules data/qm9 --crystals data/mp-20 --out benchmarks/joint.json

Each single model is trained for the given minutes on the codec that ships, the joint model twice as long on
a codec of its own. The transformers have one size, and all are sampled in 30 steps. Samples are measured
against the validation splits.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from ablations import SMALL, measure, train_for, trained_steps

from gen3d.config import load_yaml, merge
from gen3d.files import atomic_write

CONFIGS = Path(__file__).parents[1] / "configs"
SAMPLING = {"sampling": {"steps": 30, "guidance": 1.0, "autoguidance": 1.0}}
"""What two of the configurations choose for themselves, made equal."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--molecules", required=True)
    parser.add_argument("--crystals", required=True)
    parser.add_argument("--minutes", type=float, default=5.0, help="for each single model")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    both = f"{arguments.molecules},{arguments.crystals}"
    data = {"molecule": arguments.molecules, "crystal": arguments.crystals}

    report: dict[str, Any] = {"minutes": arguments.minutes, "samples": arguments.samples, "threads": 1}
    for config, source, minutes, domains in (
        ("joint", both, 2 * arguments.minutes, ("molecule", "crystal")),
        ("molecule", arguments.molecules, arguments.minutes, ("molecule",)),
        ("crystal", arguments.crystals, arguments.minutes, ("crystal",)),
    ):
        values = merge(merge(load_yaml(CONFIGS / f"{config}.yaml"), SMALL), SAMPLING)
        with tempfile.TemporaryDirectory() as folder:
            run = train_for(values, source, minutes, Path(folder))
            found = {name: measure(run, name, data[name], arguments.samples) for name in domains}
            report[config] = {"minutes": minutes, "steps": trained_steps(run), **found}
        print(config, json.dumps(report[config]), flush=True)
        with atomic_write(arguments.out) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
