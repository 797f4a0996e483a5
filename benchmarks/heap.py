"""What sampling costs when freed memory is kept (gen3d.heap), and when it goes back to the system.

python benchmarks/heap.py --out benchmarks/heap.json
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

from gen3d import Generator, heap
from gen3d.files import atomic_write

COUNTS = {"image": 64, "molecule": 128, "crystal": 64, "shape": 16}
"""Samples of each domain, with its default settings."""
ROUNDS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help="domain to be sampled in this process")
    parser.add_argument("--keep", action="store_true", help="in this process, keep what is freed")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(sample(arguments.one, arguments.keep)))
        return
    rows = []
    for domain, count in COUNTS.items():
        # Both by turns, so that whatever else the machine does falls on both.
        runs = {keep: [] for keep in (False, True)}
        for _ in range(ROUNDS):
            for keep, found in runs.items():
                words = [sys.executable, __file__, "--one", domain, *(["--keep"] if keep else [])]
                found.append(json.loads(subprocess.run(words, capture_output=True, check=True).stdout))
        given, kept = (min(runs[keep], key=lambda run: run["seconds"]) for keep in (False, True))
        rows.append({
            "domain": domain, "samples": count, "given_back": given, "kept": kept,
            "ratio": given["seconds"] / kept["seconds"],
        })  # fmt: skip
        print(rows[-1], flush=True)
    if arguments.out:
        with atomic_write(arguments.out) as temporary:
            about = {"machine": platform.machine(), "rounds": ROUNDS, "libc": platform.libc_ver()}
            temporary.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n", encoding="utf-8")


def sample(domain: str, keep: bool) -> dict[str, float]:
    if keep:
        assert heap.keep_freed(), "this C library cannot be told"
    generator = Generator.from_pretrained(domain, "cpu")
    generator.sample(1, progress=False)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    generator.sample(COUNTS[domain], progress=False)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": seconds,
        "system_seconds": after.ru_stime - before.ru_stime,
        "user_seconds": after.ru_utime - before.ru_utime,
        "peak_mb": after.ru_maxrss / 1024,
    }


if __name__ == "__main__":
    main()
