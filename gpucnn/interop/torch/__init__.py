"""The table convolution and trainable subsampling as modules of PyTorch.

    from gpucnn.interop.torch import Conv2d, Subsample2d

Both compute with this library's ops, forward and backward: tensors on a GPU by its CUDA kernels
through CuPy, on torch's current stream and in torch's memory, tensors on the CPU by NumPy. Needs
PyTorch: `pip install gpucnn[torch]`, else `MissingDependencyError`; on a GPU CuPy as well.
"""

from gpucnn.errors import MissingDependencyError

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise MissingDependencyError("gpucnn.interop.torch: expected the package torch, which is not "
                                 "installed: pip install gpucnn[torch]") from error

from gpucnn.interop.torch.modules import Conv2d, Subsample2d

__all__ = ["Conv2d", "Subsample2d"]
