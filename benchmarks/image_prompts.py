"""Prompts that were never told in training: pairs of a colour and a noun that captions leave out.

python benchmarks/image_prompts.py --data data/images --n 1000 --out prompts.txt
python benchmarks/image_prompts.py --data data/objects --n 300 --out prompts.txt
"""

import argparse
import itertools
from pathlib import Path

from gen3d.captures.compose import withheld
from gen3d.colours import NAMED
from gen3d.files import atomic_write, read_arrays
from gen3d.judges import GROUPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="prepared pictures or things")
    parser.add_argument("--n", type=int, default=1000, help="how many; pairs take turns")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    known = {str(noun) for noun in read_arrays(arguments.data, "valid", ["noun"], "image")[1]["noun"]}
    pairs = [(c, n) for n in sorted(known & GROUPS.keys()) for c in NAMED if withheld(c, n)]
    lines = [
        f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {noun}"
        for colour, noun in itertools.islice(itertools.cycle(pairs), arguments.n)
    ]
    with atomic_write(arguments.out) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} prompts of {len(pairs)} pairs")


if __name__ == "__main__":
    main()
