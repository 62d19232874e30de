"""Where a group's maps lie in the shared memory of a block."""

from dataclasses import dataclass, replace

ALIGNMENT = 4  # elements: vectors of four are read in one access


@dataclass(frozen=True)
class Maps:
    """Maps of one boundary in shared memory, all numbers in elements: rows lie `pitch` apart, maps
    `map_stride`, samples `sample_stride`; `offset` is the first pixel. Fields in the order of the
    kernels' `Maps` (group.cuh)."""

    offset: int
    maps: int
    height: int
    width: int
    pitch: int
    map_stride: int
    sample_stride: int

    @property
    def size(self):
        """The elements of one sample, without gaps."""
        return self.maps * self.height * self.width

    def at(self, sample, map_, row, column):
        """The place of a pixel; arguments may be arrays."""
        return (self.offset + sample * self.sample_stride + map_ * self.map_stride
                + row * self.pitch + column)

    def as_vector(self):
        """The same memory as single pixels: what a Flatten makes of compact maps."""
        return Maps(self.offset, self.size, 1, 1, 1, 1, self.sample_stride)


def placed(boundary, spread=(0, 0)):
    """`Maps` of a boundary at the beginning of memory, and their size for one sample.

    spread: by how much rows and samples are further apart than they need be, so that lanes that
    read neighbouring rows or samples hit different banks; compact maps keep their rows together.
    """
    (maps, height, width), (down, right) = boundary.shape, boundary.border
    pitch = width if boundary.compact else width + 2 * right + spread[0]
    map_stride = height * width if boundary.compact else (height + 2 * down) * pitch
    first = down * pitch + right
    sample_stride = _aligned(maps * map_stride) + spread[1]
    return Maps(first, maps, height, width, pitch, map_stride, sample_stride)


def stacked(places, samples, start=0):
    """The `Maps` of `placed` one behind the other, for `samples` samples each; and the end."""
    moved = []
    for place in places:
        moved.append(replace(place, offset=start + place.offset))
        start += _aligned(samples * place.sample_stride)
    return moved, start


def smallest_size(boundary):
    """The elements that a sample's maps of a boundary take at least."""
    return placed(boundary).sample_stride


def _aligned(size):
    return -(-size // ALIGNMENT) * ALIGNMENT
