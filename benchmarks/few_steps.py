r"""Quality against the number of steps: a model, and the same after learning long steps.

python benchmarks/few_steps.py --domain shape --plain shape --few runs/shape_few/checkpoint \
    --data data/sweethome3d --metrics 1nna_cd cov_cd --checks emd=none \
    --out benchmarks/shape_few_steps.json
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import yaml

from gen3d.evaluate import evaluate
from gen3d.files import atomic_write
from gen3d.generator import Generator


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--domain", required=True)
    parser.add_argument("--plain", required=True, help="checkpoint, as `gen3d.load` takes them")
    parser.add_argument("--few", required=True, help="checkpoint that is told step sizes")
    parser.add_argument("--data", required=True)
    parser.add_argument("--metrics", nargs="+", required=True)
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 2, 4, 8, 50])
    parser.add_argument("--n", type=int, default=133)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance", type=float, default=None)
    parser.add_argument("--checks", nargs="*", default=[], help="NAME=VALUE, options of the metrics")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    checks = {name: yaml.safe_load(value) for name, _, value in (c.partition("=") for c in args.checks)}
    found: dict[str, Any] = {"n": args.n, "seed": args.seed, "metrics": args.metrics}
    for name, checkpoint in (("plain", args.plain), ("few", args.few)):
        generator = Generator.from_pretrained(checkpoint, "cpu", domain=args.domain)
        found[name] = {}
        for steps in args.steps:
            samples = generator.sample(args.n, seed=args.seed, steps=steps, guidance=args.guidance)
            with tempfile.TemporaryDirectory() as folder:
                report = evaluate(args.domain, samples, args.data, out=folder, checks=checks, progress=False)
            found[name][steps] = {key: report["metrics"][key]["value"] for key in args.metrics}
    print(table(found))
    if args.out:
        with atomic_write(args.out) as temporary:
            temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def table(found: dict[str, Any]) -> str:
    """A line for each model and number of steps, a column for each metric."""
    lines = [f"{'model':>6} {'steps':>6}" + "".join(f" {name:>16}" for name in found["metrics"])]
    for model in ("plain", "few"):
        for steps, values in found[model].items():
            shown = ["-" if value is None else f"{value:.5g}" for value in values.values()]
            lines.append(f"{model:>6} {steps:>6}" + "".join(f" {value:>16}" for value in shown))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
