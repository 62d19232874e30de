"""Plans of the CUDA backend: a network's step in a few kernels that are made for it.

A step is a row of *groups* of layers. One block computes a whole group, forward and back, for some
samples at a time with every map in shared memory, so that nothing but images, sums of gradients and
what crosses from one group to the next passes through global memory; LeNet-5 on a large GPU is one
group. What no block has room for runs by the backend's own ops, in the same row. Then one launch
adds up the gradients and updates the parameters. Images are gathered by the first group, the loss
is in the last. An epoch is a captured graph of such steps, replayed.

Read in this order: `chain` (layers as the kernels see them), `layout` (maps in shared memory),
`tiles` (what a thread computes at a time, by counted cycles), `group` (a group with all sizes),
`grouping` (which layers go together), `description` (a group as C++), `sources`, `parts` (groups
and lone layers on arrays), `update` with `shares` (sums of gradients and the optimiser), `step`
(the plan), `figures` and `explain`. The kernels: cuda_kernels/group.cuh, which says how a network
is described to them, group_*.cuh, group_forward.cu, group_backward.cu, update.cu,
matrix_partials.cu.

To lower a new layer: write its struct with `forward`, `grad_parameters` and `grad_input` beside
those in group_pooling.cuh, name it in `description._OPS` and give what it asks for in
`description._kind_members`; count its cycles in `group._layer_cycles`. If its parameters are summed
in rows of partial sums, like a convolution's, that is all. Without it, give the layer a method in
`parts.LayerPart` and let `grouping.partition` leave it by itself.
"""
