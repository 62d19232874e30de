"""Other libraries' ways into this one, each an optional dependency of its own.

`gpucnn.interop.torch`: the table convolution and trainable subsampling as PyTorch modules.
"""
