"""Launches of the convolution kernels: cuda_kernels/conv2d.cu, conv2d_grad_input.cu and
conv2d_grad_weight.cu."""

from gpucnn.backends.base import Conv2dGradients
from gpucnn.backends.cuda.kernels import Specialisation
from gpucnn.backends.cuda.launch import blocks_for, new_like, shares_for, sum_partials
from gpucnn.errors import KernelError
from gpucnn.shapes import window_positions

WARPS = 8  # of conv2d.cu and conv2d_grad_input.cu: maps a block computes
THREADS = 32 * WARPS
WEIGHT_THREADS = 128
STAGED_BYTES = 16 * 1024  # shared memory for staged maps that leaves room for several blocks
LARGEST_STAGED_BYTES = 32 * 1024
LARGEST_TAPS = 1024  # kernel elements of a weight block, eight of which a thread keeps
# Tiles of (samples, height, width) pixels: parts of one large map, or pixels of many small ones.
PIXEL_TILES = ((1, 4, 8), (2, 4, 4), (8, 2, 2), (32, 1, 1))
WEIGHT_TILES = ((1, 16, 16), (4, 8, 8), (16, 4, 4), (64, 2, 2), (256, 1, 1))


def conv2d(backend, x, weight, bias, connections, *, stride, padding, activation, out=None,
           workspace=None):
    """One launch; bias and activation are fused into it."""
    sizes = _Sizes(x, weight, connections, stride, padding)
    out = new_like(backend, out, (len(x), connections.out_maps, *sizes.out_size), x.dtype)
    tile = _forward_tile(sizes, WARPS, PIXEL_TILES)
    order = backend.table(connections).by_output
    backend.kernels.launch(
        _specialised("conv2d.cu", sizes, tile, activation), "conv2d_forward",
        tile.count(len(x), sizes.out_size) * blocks_for(connections.out_maps, WARPS), THREADS,
        backend.contiguous(x, "conv2d.x", workspace),
        backend.contiguous(weight, "conv2d.weight", workspace),
        backend.contiguous(bias, "conv2d.bias", workspace),
        order.starts, order.connections, order.others, out, *sizes.arguments)
    return out


def conv2d_backward(backend, grad_output, output, x, weight, connections, *, stride, padding,
                    activation, needs_grad_input=True, out=None, workspace=None):
    """A launch for each gradient; the derivative of the activation is applied while loading."""
    sizes = _Sizes(x, weight, connections, stride, padding)
    grad_input, grad_weight, grad_bias = out or (None, None, None)
    grad_output = backend.contiguous(grad_output, "conv2d.grad_output", workspace)
    output = backend.contiguous(output, "conv2d.output", workspace)
    grad_weight = new_like(backend, grad_weight, weight.shape, x.dtype)
    grad_bias = new_like(backend, grad_bias, (connections.out_maps,), x.dtype)
    _grad_parameters(backend, grad_output, output, backend.contiguous(x, "conv2d.x", workspace),
                     connections, sizes, activation, grad_weight, grad_bias, workspace)
    if not needs_grad_input:
        return Conv2dGradients(None, grad_weight, grad_bias)
    grad_input = new_like(backend, grad_input, x.shape, x.dtype)
    tile = _input_tile(sizes, WARPS, PIXEL_TILES)
    order = backend.table(connections).by_input
    backend.kernels.launch(
        _specialised("conv2d_grad_input.cu", sizes, tile, activation), "conv2d_grad_input",
        tile.count(len(x), sizes.size) * blocks_for(connections.in_maps, WARPS), THREADS,
        grad_output, output, backend.contiguous(weight, "conv2d.weight", workspace),
        order.starts, order.connections, order.others, grad_input, *sizes.arguments)
    return Conv2dGradients(grad_input, grad_weight, grad_bias)


def _grad_parameters(backend, grad_output, output, x, connections, sizes, activation, grad_weight,
                     grad_bias, workspace):
    if sizes.samples == 0:
        backend.zero(grad_weight)
        backend.zero(grad_bias)
        return
    tile = _forward_tile(sizes, 1, WEIGHT_TILES)
    specialisation = _specialised("conv2d_grad_weight.cu", sizes, tile, activation)
    tiles = tile.count(sizes.samples, sizes.out_size)
    blocks = connections.n_connections * blocks_for(sizes.kernel[0], tile.strip)
    shares = shares_for(backend, blocks, tiles)
    with sum_partials(backend, grad_weight, shares, "conv2d.weight_partials",
                      workspace) as partials:
        backend.kernels.launch(
            specialisation, "conv2d_grad_weight", blocks * shares, WEIGHT_THREADS, grad_output,
            output, x, backend.table(connections).pairs, partials, connections.n_connections,
            *sizes.arguments, shares)
    shares = shares_for(backend, connections.out_maps, sizes.samples)
    with sum_partials(backend, grad_bias, shares, "conv2d.bias_partials", workspace) as partials:
        backend.kernels.launch(
            specialisation, "conv2d_grad_bias", connections.out_maps * shares, WEIGHT_THREADS,
            grad_output, output, partials, sizes.samples, connections.out_maps,
            sizes.out_size[0] * sizes.out_size[1], shares)


class _Sizes:
    """All sizes of one convolution, and the kernels' common run-time arguments."""

    def __init__(self, x, weight, connections, stride, padding):
        self.samples = len(x)
        self.size = x.shape[2:]
        self.kernel = weight.shape[1:]
        self.stride = stride
        self.itemsize = x.dtype.itemsize
        self.dtype = x.dtype
        self.out_size = tuple(map(window_positions, self.size, self.kernel, stride, padding))
        self.arguments = (len(x), connections.in_maps, *self.size, connections.out_maps,
                          *self.out_size, *padding)


class _Tile:
    """A tile shape with its strip of kernel rows and what it stages for one map."""

    def __init__(self, shape, strip, staged):
        self.shape = shape
        self.strip = strip
        self.staged = staged
        self.pixels = shape[0] * shape[1] * shape[2]

    def count(self, samples, size):
        """How many such tiles cover the batch."""
        return (blocks_for(samples, self.shape[0]) * blocks_for(size[0], self.shape[1])
                * blocks_for(size[1], self.shape[2]))


def _forward_tile(sizes, maps, shapes):
    """The tile for output pixels: it stages every input pixel under the tile's windows."""
    def staged(shape, strip):
        samples, height, width = shape
        return samples * (((height - 1) * sizes.stride[0] + strip)
                          * ((width - 1) * sizes.stride[1] + sizes.kernel[1]) | 1)

    return _cheapest(sizes, sizes.out_size, maps, shapes, staged)


def _input_tile(sizes, maps, shapes):
    """The tile for input pixels: it stages every output pixel whose window touches the tile."""
    def staged(shape, strip):
        samples, height, width = shape
        return samples * (((height + strip - 2) // sizes.stride[0] + 1)
                          * ((width + sizes.kernel[1] - 2) // sizes.stride[1] + 1) | 1)

    return _cheapest(sizes, sizes.size, maps, shapes, staged)


def _cheapest(sizes, size, maps, shapes, staged):
    """Of the shapes that fit into shared memory, the one with the least work for the whole batch:
    its multiply-adds for one connection of each of its `maps` maps, plus two per staged pixel."""
    kernel_height, kernel_width = sizes.kernel
    candidates = []
    for shape in shapes:
        strip = min(kernel_height, max(1, LARGEST_TAPS // kernel_width))
        while strip > 1 and staged(shape, strip) * sizes.itemsize > LARGEST_STAGED_BYTES:
            strip -= 1
        tile = _Tile(shape, strip, staged(shape, strip))
        if tile.staged * sizes.itemsize <= LARGEST_STAGED_BYTES:
            work = tile.pixels * maps * kernel_height * kernel_width + 2 * tile.staged
            candidates.append((tile.count(sizes.samples, size) * work, tile))
    if not candidates or kernel_width > LARGEST_TAPS:
        raise KernelError(f"conv2d on CUDA: expected a kernel_size whose windows fit into "
                          f"{LARGEST_STAGED_BYTES} bytes of shared memory row by row, got "
                          f"{kernel_height}x{kernel_width}")
    return min(candidates, key=lambda candidate: candidate[0])[1]


def _specialised(file, sizes, tile, activation):
    constants = {
        "KERNEL_HEIGHT": sizes.kernel[0], "KERNEL_WIDTH": sizes.kernel[1],
        "STRIDE_Y": sizes.stride[0], "STRIDE_X": sizes.stride[1],
        "TILE_SAMPLES": tile.shape[0], "TILE_HEIGHT": tile.shape[1], "TILE_WIDTH": tile.shape[2],
        "STRIP_HEIGHT": tile.strip,
    }
    if file == "conv2d_grad_weight.cu":
        constants["THREADS"] = WEIGHT_THREADS
    else:
        constants["WARPS"] = WARPS
        constants["STAGED_MAPS"] = min(8, max(1, STAGED_BYTES // (tile.staged * sizes.itemsize)))
    return Specialisation(file, sizes.dtype, activation, tuple(constants.items()))
