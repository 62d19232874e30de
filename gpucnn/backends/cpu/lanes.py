"""Blocks of samples, computed in lanes by threads that each have memory of their own.

In each lane blocks are computed one after the other, by whatever thread, so that their sums have
one order whatever the number of threads.
"""

import weakref
from functools import lru_cache

from gpucnn.backends.cpu.threads import blas_threads, can_limit_blas, one_blas_thread
from gpucnn.backends.cpu.workers import Workers

LANES = 8


def lanes_of(blocks):
    """How many lanes so many blocks are divided into."""
    return min(LANES, len(blocks))


class Lanes:
    """What computes the blocks of one op, for calls that follow each other. A call on the same
    arrays as the two before finds bound to them what these have used: then it is nothing but
    calls of NumPy, of which short ones would otherwise take less time than what leads to them."""

    def __init__(self):
        self._places = None
        self._bound = {}

    def run(self, bind, blocks, arrays, totals, memory):
        """Compute every block, each lane for its own of the `totals`. bind(samples, memory) gives
        two functions for blocks of so many samples of these `arrays`, with the memory of one
        worker: begin(), called first, and compute(block, total). `memory` is the `Workspace` that
        has that of all."""
        bound = self._bound_to(arrays) if memory.may_hold_arrays else {}
        threads = min(len(totals), blas_threads() or 1) if can_limit_blas() else 1
        memories = [_Memory(memory, number) for number in range(threads)]
        begun = set()

        def work(worker, lane):
            for block in blocks[lane::len(totals)]:
                key = worker, block.stop - block.start
                if key not in bound:
                    bound[key] = bind(key[1], memories[worker])
                begin, compute = bound[key]
                if key not in begun:
                    begin()
                    begun.add(key)
                compute(block, totals[lane])

        if threads == 1:
            for lane in range(len(totals)):
                work(0, lane)
            return
        with one_blas_thread(always=True):
            _workers(threads).run(work, len(totals))

    def _bound_to(self, arrays):
        """What is bound to these arrays. Nobody keeps arrays alive that are used once."""
        places = [_place(array) for array in arrays]
        if places == self._places:
            return self._bound
        self._places, self._bound = places, {}
        return {}


def _place(array):
    """Where an array lies in memory, or None for none."""
    if array is None:
        return None
    return array.__array_interface__["data"][0], array.shape, array.strides


class _Memory:
    """One worker's part of a workspace. It does not keep that alive: what is bound may hold it, and
    is kept in the workspace."""

    def __init__(self, workspace, number):
        self._workspace = weakref.ref(workspace)
        self._number = number

    def take(self, name, shape, dtype):
        return self._workspace().take((name, self._number), shape, dtype)

    def keep(self, key, make):
        return self._workspace().keep((key, self._number), make)


_workers = lru_cache(maxsize=8)(Workers)
