"""Launches of the batch gathering kernels: cuda_kernels/gather.cu."""

import numpy as np

from gpucnn.backends.cuda.kernels import Specialisation
from gpucnn.backends.cuda.launch import BLOCK, THREADS, blocks_for


def gather(backend, images, labels, order, shifts, *, input_range, out, out_labels):
    """One launch, a thread per pixel of the batch."""
    low, high = input_range
    images = backend.contiguous(images, "gather.images", None)
    labels = backend.contiguous(labels, "gather.labels", None)
    arguments = (images, labels, order, shifts, out, out_labels, len(out), *images.shape[1:],
                 *out.shape[2:], low)
    if images.dtype == np.uint8:
        kernel, arguments = "gather_bytes", (*arguments, (high - low) / 255)
    else:
        kernel = "gather_reals"
    backend.kernels.launch(Specialisation("gather.cu", out.dtype, None, (BLOCK,)), kernel,
                           blocks_for(out.size, THREADS), THREADS, *arguments)
