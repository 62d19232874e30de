"""The plan for one sample at a time: few NumPy calls, each on long runs of memory.

A step of a small network is some hundred thousand multiply-adds, so that the NumPy calls themselves
are what it costs. Here is how they become few:

- Parameters are kept in the order in which products want them, from the first sample to the last
  (`parameters`): zeros where a table joins nothing, biases as one more input. They are the
  network's own numbers; an epoch begins and ends with a copy.
- The constants of activations go where data are copied or added anyway (`outputs`).
- All activations that are a tanh lie in one array, whose derivatives take three calls (`outputs`).
- Maps keep the row pitch of the image that they were computed from: a convolution copies each shift
  of the whole map as one run, and what it computes between the rows' ends is never read (`conv2d`).
- Large matrices are not updated by every sample: the last few are remembered as pairs of vectors
  (`low_rank`).
- Images are gathered many at a time (`training`).

`lowering` chooses the steps, `step` says what they are made of. What has no step here runs by one
of the batch plan (`general`).
"""
