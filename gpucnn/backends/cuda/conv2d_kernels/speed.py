"""What kernels are estimated by: cycles of a multiprocessor, and bytes.

A multiprocessor issues four instructions a cycle, each for a warp, and has one access a cycle to
shared memory or the first cache: 32 words in different banks. What else an estimate counts is
written where it is made. Estimates have to rank kernels. Their constants were fitted to an H200's
times of some 500 plans for 13 convolutions (benchmarks/RESULTS.md): there the tiles that are chosen
take 1 % longer than the best ones on average, in the worst case 16 %. No other GPU has been asked.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

BANKS = WARP = 32
SCHEDULERS = 4
EFFICIENCY = 0.7             # of issued cycles: dispatch stalls, latencies that nothing hides
LAUNCH_SECONDS = 2.5e-6      # a launch with its ramp and tail, one after another on the device
L2_BYTES = 26                # a cycle that the second cache gives each multiprocessor
ALONE = 1.3                  # how much longer a block takes whose gaps no other fills
USUAL_CLOCK, USUAL_BANDWIDTH = 1.7e9, 1e12   # of a device that does not tell

_CORES = {(7, 5): 64, (8, 0): 64}    # float32 lanes of a multiprocessor; 128 of all others
_SLOWER_DOUBLES = {(7, 5): 32, (8, 0): 2, (9, 0): 2, (10, 0): 2}  # than floats; 64 times on others
_TENSOR_CORES = {8: 128, 9: 600, 10: 600, 12: 128}  # TF32 multiply-adds a cycle through mma.sync


@dataclass(frozen=True)
class Speed:
    """A device in the estimates' terms."""

    multiprocessors: int
    clock: float
    bandwidth: float
    cores: int
    slower_doubles: int
    tensor_cores: int
    dynamic_shared_bytes: int
    shared_bytes_of_multiprocessor: int
    async_copies: bool

    @classmethod
    def of(cls, profile):
        """Of a `DeviceProfile`."""
        major = profile.compute_capability[0]
        tensor_cores = 512 if profile.compute_capability == (8, 0) else _TENSOR_CORES.get(major, 0)
        return cls(profile.multiprocessors, profile.clock or USUAL_CLOCK,
                   profile.bandwidth or USUAL_BANDWIDTH,
                   _CORES.get(profile.compute_capability, 128),
                   _SLOWER_DOUBLES.get(profile.compute_capability, 64), tensor_cores,
                   profile.dynamic_shared_bytes, profile.shared_bytes_of_multiprocessor, major >= 8)

    def multiply_add(self, itemsize):
        """Issue slots that a warp's multiply-add takes."""
        slots = 128 / self.cores
        return slots if itemsize == 4 else slots * self.slower_doubles

    def busiest(self, busy, waiting, blocks, at_once):
        """Cycles of the multiprocessor with the most of `blocks` blocks, each of which keeps it
        busy for so many cycles and waits for others itself; `at_once` are on one at a time."""
        waves, last = divmod(blocks, self.multiprocessors * at_once)
        together = -(-last // self.multiprocessors)
        alone = ALONE if waves == 0 and together <= 1 else 1
        return (busy * (waves * at_once + together) * alone
                + waiting * (waves + (last > 0)))

    def seconds(self, cycles, l2_bytes, dram_bytes, launches=1):
        """Of a kernel whose multiprocessors each compute for so many `cycles`."""
        return launches * LAUNCH_SECONDS + max(
            cycles / EFFICIENCY / self.clock,
            l2_bytes / (L2_BYTES * self.multiprocessors * self.clock),
            dram_bytes / (0.9 * self.bandwidth))


def conflicts(places, width):
    """Accesses that loads of `width` neighbouring words take, of lanes that are served together:
    as many as words of theirs lie in one bank. places (..., lanes): their first words."""
    words = np.sort((places[..., None] + np.arange(width)).reshape(*places.shape[:-1], -1), axis=-1)
    first = np.diff(words, axis=-1, prepend=words[..., :1] - 1) != 0  # a word is read once for all
    banks = (words % BANKS)[..., None] == np.arange(BANKS)
    return (banks & first[..., None]).sum(axis=-2).max(axis=-1)


def wavefronts(places, width):
    """Accesses that a warp's load of `width` neighbouring words takes; places (..., 32) as in
    `conflicts`. A warp is served in `width` parts."""
    return conflicts(places.reshape(*places.shape[:-1], width, -1), width).sum(axis=-1)


@cache
def row_loads(count, alignment):
    """(width, number) of the loads of `count` neighbouring words that begin at a multiple of
    `alignment`."""
    loads = []
    for width in (4, 2, 1):
        if width <= alignment and count >= width:
            loads.append((width, count // width))
            count %= width
    return tuple(loads)


def even_parts(length, most):
    """(size, number) of the fewest equal parts of `length` that are at most `most` long."""
    parts = -(-length // most)
    return -(-length // parts), parts
