"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch

SHARED = Path(os.environ.get("GEN3D_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder of real data at {SHARED} (set GEN3D_SHARED_DATA)")
    return SHARED


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny tensors are slower on many threads, and xdist already uses every core."""
    torch.set_num_threads(1)
