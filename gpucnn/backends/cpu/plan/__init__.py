"""Plans of the NumPy backend: a network lowered to named steps on batch-last micro-batches.

Read in this order: `layout` (how maps lie in memory), `step` (what a plan is made of), the steps
themselves (`images`, `conv2d` with `windows`, `tables` and `products`, `pooling`, `dense`, `views`,
`plain_op`, `answers`), `lowering` (from layers to steps), `lanes` (a micro-batch's memory and its
runs), `training` and `inference` (the plans), `explain`. The package `online` is the plan for one
sample at a time.

To lower a new layer: write a `Step` that holds its geometry and its weights in the form that it
computes with, and a `Run` that binds it to a lane: views and buffers in `__init__` and
`bind_backward`, NumPy calls alone in `forward` and `backward`. Then give it a role in
`lowering._role` and a line in `lower`. `dense.py` is the shortest that has weights, `plain_op.py`
runs an op of the backend as it is.
"""
