"""What the launches of all ops share: sizes of grids, and sums in two stages."""

from contextlib import contextmanager

from gpucnn.backends.cuda.kernels import Specialisation

THREADS = 128  # of every kernel that maps threads to elements
BLOCK = ("THREADS", THREADS)  # tells the kernel
LARGEST_SHARES = 64
BLOCKS_PER_MULTIPROCESSOR = 4


def blocks_for(count, per_block):
    """The number of blocks that cover `count` things."""
    return -(-count // per_block)


def new_like(backend, out, shape, dtype):
    """`out`, or a new array if it is None."""
    return backend.empty(shape, dtype) if out is None else out


def shares_for(backend, blocks, steps):
    """Into how many shares to cut a sum of `steps` steps, if each share takes `blocks` blocks: as
    many as keep the device busy. It depends on sizes and device alone, so sums are repeatable."""
    wanted = BLOCKS_PER_MULTIPROCESSOR * backend.runtime.profile.multiprocessors
    return max(1, min(blocks_for(wanted, max(1, blocks)), steps, LARGEST_SHARES))


@contextmanager
def sum_partials(backend, result, shares, name, workspace):
    """An array (shares, *result.shape) to be filled inside; on leaving, its sum over the shares is
    written to `result`. For a single share it is `result` itself."""
    if shares == 1:
        yield result
        return
    partials = backend.scratch(workspace, name, (shares, *result.shape), result.dtype)
    yield partials
    specialisation = Specialisation("reduce.cu", result.dtype, None, (BLOCK,))
    backend.kernels.launch(specialisation, "sum_partials", blocks_for(result.size, THREADS),
                           THREADS, partials, result, result.size, shares)
