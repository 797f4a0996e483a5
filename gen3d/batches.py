"""Which items form each training batch, and preparing batches ahead of their use."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch

from gen3d.draws import Draws

T = TypeVar("T")

POOL_BATCHES = 16
"""Batches sorted by size together: few enough to stay random, enough to pad little."""


class BatchOrder:
    """The items of every batch of an endless training, a pure function of (seed, step).

    The data set is shuffled anew each epoch, with no item dropped at its end. Pools of `POOL_BATCHES`
    batches are sorted by size and cut, so that a batch holds items of like size, and the batches of a
    pool follow in random order.

    Args:
        sizes: token count of every item.
        batch_size: items of a batch.
        seed: the run's seed.
    """

    def __init__(self, sizes: np.ndarray, batch_size: int, seed: int) -> None:
        self.sizes = np.asarray(sizes)
        self.batch_size = batch_size
        self.seed = seed
        # No larger than an epoch, or a sorted pool would lay copies of one item side by side.
        self._pool_batches = min(POOL_BATCHES, max(1, len(self.sizes) // batch_size))
        self._epoch = lru_cache(maxsize=2)(self._shuffled_epoch)
        self._pool = lru_cache(maxsize=2)(self._sorted_pool)

    def __getitem__(self, step: int) -> np.ndarray:
        """Item numbers (batch_size,) of the batch of `step`."""
        pool, slot = divmod(step, self._pool_batches)
        return self._pool(pool)[slot]

    def _sorted_pool(self, pool: int) -> np.ndarray:
        length, items = self._pool_batches * self.batch_size, len(self.sizes)
        start, stop = pool * length, (pool + 1) * length
        epochs = range(start // items, (stop - 1) // items + 1)
        stream = np.concatenate([self._epoch(epoch) for epoch in epochs])
        chosen = stream[start - epochs[0] * items :][:length]
        batches = chosen[np.argsort(self.sizes[chosen], kind="stable")].reshape(-1, self.batch_size)
        return batches[self._permutation(f"pool {pool}", len(batches))]

    def _shuffled_epoch(self, epoch: int) -> np.ndarray:
        return self._permutation(f"epoch {epoch}", len(self.sizes))

    def _permutation(self, stream: str, length: int) -> np.ndarray:
        keys = Draws(self.seed, torch.arange(length)).uniform(stream)
        return torch.argsort(keys, stable=True).numpy()


def prefetch(make: Callable[[int], T], steps: Iterable[int], ahead: int = 4) -> Iterator[T]:
    """`make(step)` for every step in turn, computed by a thread up to `ahead` steps early."""
    pending: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gen3d-batches")
    try:
        for step in steps:
            pending.append(pool.submit(make, step))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
