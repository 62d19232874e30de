"""Runs the CUDA kernels of `cuda_kernels/` on the host, for tests without a GPU.

`runtime.HostRuntime` takes the place of the CUDA backend's runtime. The same kernel text is
compiled with g++, each CUDA thread runs as a fibre, and faults that a GPU would hide are errors:
see `runtime.py`, and `sanitized.py` for the address sanitizer.
"""
