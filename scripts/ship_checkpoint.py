"""Put a trained checkpoint where `gen3d.load(DOMAIN)` finds it, in half precision, keeping its model card.

python scripts/ship_checkpoint.py runs/crystal/checkpoint gen3d/weights/crystal configs/crystal.yaml

The defaults of sampling are those of the configuration.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from gen3d.checkpoint import CARD
from gen3d.config import load_yaml
from gen3d.generator import Generator
from gen3d.run_config import run_config


def main(source: str, target: str, config: str) -> None:
    card = Path(target) / CARD
    generator = Generator.from_pretrained(source, "cpu")
    sampling = run_config(load_yaml(Path(config))).sampling
    generator.config = replace(generator.config, sampling=sampling)
    text = card.read_text(encoding="utf-8") if card.is_file() else None
    generator.save_pretrained(target, dtype=torch.float16, card=text)
    size = sum(file.stat().st_size for file in Path(target).iterdir()) / 1e6
    print(f"{target}: {sum(p.numel() for p in generator.parameters()):,} parameters, {size:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
