"""Memory that is kept: by the pages that the system has to clear for tensors that come and go."""

import subprocess
import sys

import pytest

from gen3d import heap

COUNTED = """
import resource, sys
import torch
from gen3d import heap
if sys.argv[1] == "keep":
    assert heap.keep_freed()
for _ in range(20):  # What is freed first is not at hand at once.
    torch.ones(16_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(16_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone can be told")
def test_freed_memory_is_used_again() -> None:
    pages = {}
    for how in ("give", "keep"):
        words = [sys.executable, "-c", COUNTED, how]
        pages[how] = int(subprocess.run(words, capture_output=True, check=True, text=True).stdout)
    assert pages["keep"] < pages["give"] / 4


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.sys, "platform", "darwin")
    assert not heap.keep_freed()
