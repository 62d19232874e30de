"""What an optimiser asks of a kernel that updates whole networks: optimizers.cuh's structs.

    op = op_of(optimizer, dtype)
    op.struct, op.constants     # "Sgd", (0.9, 0.0, 0.0005)

An optimiser says what it does by calling a backend's op; here it is asked by an object that stands
in for the backend and notes the call.
"""


class OptimizerOp:
    """The `struct` that updates a parameter, the numbers that it is made from, the optimiser's
    state as (first, second), either None, and the names of what there is of it."""

    @property
    def has_state(self):
        """Whether there is anything to remember from one step to the next."""
        return any(name is not None for name in self.names)

    def sgd_step(self, parameters, gradients, velocity, scalars, *, momentum, nesterov,
                 weight_decay):
        """Note what `SGD` asks for."""
        self.struct, self.state = "Sgd", (velocity, None)
        self.names = ("velocity" if momentum else None,)
        self.constants = (momentum, float(nesterov), weight_decay)

    def adam_step(self, parameters, gradients, mean, square, scalars, *, beta1, beta2, epsilon,
                  weight_decay):
        """Note what `Adam` asks for."""
        self.struct, self.state, self.names = "Adam", (mean, square), ("mean", "square")
        self.constants = (beta1, beta2, 1 - beta1, 1 - beta2, epsilon, weight_decay)

    def zeros(self, shape, dtype):
        """For the optimiser's state, before there is any."""


def ask(optimizer, parameters, gradients, state):
    """The `OptimizerOp` of an update of these arrays."""
    asked = OptimizerOp()
    optimizer.update(asked, parameters, gradients, state, None)
    return asked


def op_of(optimizer, dtype):
    """The `OptimizerOp` of an optimiser that has no arrays yet."""
    return ask(optimizer, None, None, optimizer.state(OptimizerOp(), 0, dtype))
