"""Put a trained checkpoint where `gen3d.load(DOMAIN)` finds it, in half precision, keeping its model card.

python scripts/ship_checkpoint.py runs/crystal/checkpoint gen3d/weights/crystal 40 ancestral

The number is that of the sampler's steps by default; the sampler is the configuration's unless it is named.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from gen3d.checkpoint import CARD
from gen3d.generator import Generator


def main(source: str, target: str, steps: str, sampler: str | None = None) -> None:
    card = Path(target) / CARD
    generator = Generator.from_pretrained(source, "cpu")
    sampling = generator.config.sampling
    sampling = replace(sampling, steps=int(steps), sampler=sampler or sampling.sampler)
    generator.config = replace(generator.config, sampling=sampling)
    text = card.read_text(encoding="utf-8") if card.is_file() else None
    generator.save_pretrained(target, dtype=torch.float16, card=text)
    size = sum(file.stat().st_size for file in Path(target).iterdir()) / 1e6
    print(f"{target}: {sum(p.numel() for p in generator.parameters()):,} parameters, {size:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
