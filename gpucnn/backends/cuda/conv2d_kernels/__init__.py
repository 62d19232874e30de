"""The kernels of conv2d, several for each of its three ops, and the choice among them.

- `tiles`: register tiles walk the table's connections (tiles.py, and weight.py for the gradient by
  the weights); for tables of any density, at stride 1 mostly;
- `ring`: the same forward and by the input, some warps staging maps for the others (ring.py);
- `matrix` and `tensor_cores`: products of gathered matrices, for dense tables and few pixels
  (matrix.py);
- `general`: a pixel a lane, for any sizes (general.py).

choice.py picks by estimates in cycles and bytes; speed.py has what they count. walks.py puts tables
into the orders that kernels walk; remembered.py keeps what was measured.
"""
