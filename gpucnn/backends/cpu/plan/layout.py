"""How the maps between two steps lie in memory."""

from dataclasses import dataclass

import numpy as np

ONE = (1, 1)


@dataclass(frozen=True)
class Layout:
    """The memory of one boundary between steps, for a micro-batch of any size.

    The array is C-contiguous, of shape (maps, slab rows, slab columns, phase rows, phase columns,
    rows, columns, samples). Without slabs and phases that is (maps, height, width, samples), the
    batch-last order. Pixel y of a map is found at slab q, phase p and row r with
    y = slabs * (phases * r + p) + q, and x likewise:

    - slabs: a pooling window's pixels lie in as many slabs, so that pooling adds whole slabs up.
      Pixels that no window covers are left out.
    - phases: a convolution of stride 2 finds the pixels that it takes together side by side.

    `scale`: the true values are `scale` times those stored.
    """

    maps: int
    size: tuple[int, int]
    slabs: tuple[int, int] = ONE
    phases: tuple[int, int] = ONE
    scale: float = 1.0

    def shape(self, samples):
        """The shape of the array for so many samples."""
        cells = (extent // (slab * phase) for extent, slab, phase
                 in zip(self.size, self.slabs, self.phases, strict=True))
        return (self.maps, *self.slabs, *self.phases, *cells, samples)

    def split(self, maps):
        """A view of `maps` (maps, height, width, samples), whose sizes slabs and phases divide, in
        the order of this layout."""
        count, _, _, samples = maps.shape
        (slab_y, slab_x), (phase_y, phase_x) = self.slabs, self.phases
        parts = maps.reshape(count, -1, phase_y, slab_y, self.size[1] // (phase_x * slab_x),
                             phase_x, slab_x, samples)
        return np.transpose(parts, (0, 3, 6, 2, 5, 1, 4, 7))
