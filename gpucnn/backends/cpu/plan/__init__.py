"""Plans of the NumPy backend: a network lowered to named steps on batch-last micro-batches.

Read in this order: `layout` (how maps lie in memory), `step` (what a plan is made of), the steps
themselves (`images`, `conv2d` with `windows` and `tables`, `pooling`, `dense`, `views`, `plain_op`,
`answers`), `lowering` (from layers to steps), `lanes` (a micro-batch's memory and its runs),
`workers` (threads), `training` and `inference` (the plans).
"""
