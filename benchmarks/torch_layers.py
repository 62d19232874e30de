"""The layers of a network in PyTorch, as `peers_torch.py` runs them."""

import numpy as np

from gpucnn.activations import SCALED_TANH_AMPLITUDE, SCALED_TANH_SLOPE


def torch_layers(torch, network, device, *, training=True):
    """(name, callable) of each layer of `network`, with its parameters' values, on a device."""
    return [(layer.name, _STEPS[layer.op](torch, layer, shape, device, training))
            for layer, shape in zip(network.layers, (network.input_shape, *network.shapes),
                                    strict=False)]


class _Step:
    """A layer of the network in PyTorch: `parameters` is name -> tensor that is trained;
    `apply(parameters, x)` computes with others."""

    def __call__(self, x):
        return self.apply(self.parameters, x)

    def __init__(self, torch, layer, input_shape, device, training):
        self._functions = torch.nn.functional
        self._addcmul = torch.addcmul
        self._options = layer.options()
        self._squash = _activation(torch, self._options.get("activation", "identity"),
                                   training)
        self.parameters = {
            name: torch.tensor(self.stored(name, values), dtype=torch.float32, device=device,
                               requires_grad=training)
            for name, values in layer.parameters.items()}

    def stored(self, name, values):
        """The NumPy values of a parameter in the shape that PyTorch wants."""
        return values

    def values(self, parameters=None):
        """Name -> NumPy array as this library has it, of the layer's own parameters or others."""
        return {name: tensor.detach().cpu().numpy()
                for name, tensor in (parameters or self.parameters).items()}


class _Conv2d(_Step):
    def __init__(self, torch, layer, input_shape, device, training):
        self._table = table = layer.connections
        self._dense_shape = table.out_maps, table.in_maps, *layer.weight.shape[1:]
        self._covers_input = (layer.options()["padding"] == (0, 0)
                              and input_shape[1:] == self._dense_shape[2:])
        super().__init__(torch, layer, input_shape, device, training)
        self.mask = None
        if table.n_connections < table.in_maps * table.out_maps:
            mask = table.matrix.T[:, :, None, None] != 0
            self.mask = torch.tensor(
                np.broadcast_to(mask, self._dense_shape).reshape(self.parameters["weight"].shape),
                dtype=torch.float32, device=device)

    def apply(self, parameters, x):
        weight, bias = parameters["weight"], parameters.get("bias")
        if self._covers_input:
            return self._squash(self._functions.linear(x.flatten(1), weight, bias))
        return self._squash(self._functions.conv2d(x, weight, bias, self._options["stride"],
                                                   self._options["padding"]))

    def mask_gradient(self):
        self.parameters["weight"].grad.mul_(self.mask)

    def stored(self, name, values):
        if name != "weight":
            return values
        inputs, outputs = self._table.pairs
        dense = np.zeros(self._dense_shape, np.float32)
        dense[outputs, inputs] = values
        return dense.reshape(len(dense), -1) if self._covers_input else dense

    def values(self, parameters=None):
        inputs, outputs = self._table.pairs
        values = super().values(parameters)
        return values | {"weight": values["weight"].reshape(self._dense_shape)[outputs, inputs]}


class _Subsample2d(_Step):
    def apply(self, parameters, x):
        options = self._options
        if not options["trainable"]:
            return self._squash(self._functions.avg_pool2d(x, options["pool_size"],
                                                           options["stride"]))
        sums = self._functions.avg_pool2d(x, options["pool_size"], options["stride"],
                                          divisor_override=1)
        return self._squash(self._addcmul(parameters["bias"], sums, parameters["coefficient"]))

    def stored(self, name, values):
        return values[:, None, None]

    def values(self, parameters=None):
        return {name: array[:, 0, 0] for name, array in super().values(parameters).items()}


class _Dense(_Step):
    def apply(self, parameters, x):
        weight, bias = parameters["weight"], parameters["bias"]
        if x.ndim == 4:
            return self._squash(self._functions.conv2d(x, weight[:, :, None, None], bias))
        return self._squash(self._functions.linear(x, weight, bias))


class _MaxPool2d(_Step):
    def apply(self, parameters, x):
        return self._functions.max_pool2d(x, self._options["pool_size"], self._options["stride"])


class _Flatten(_Step):
    def apply(self, parameters, x):
        return x.flatten(1)


_STEPS = {"conv2d": _Conv2d, "subsample2d": _Subsample2d, "dense": _Dense,
          "max_pool2d": _MaxPool2d, "flatten": _Flatten}


def _activation(torch, name, training):
    """z -> y(z), in place, but for the last product in training, since autograd needs tanh's
    result."""
    def scaled_tanh(z):
        y = z.mul_(SCALED_TANH_SLOPE).tanh_()
        return y * SCALED_TANH_AMPLITUDE if training else y.mul_(SCALED_TANH_AMPLITUDE)

    return {
        "identity": lambda z: z,
        "scaled_tanh": scaled_tanh,
        "tanh": torch.tanh_,
        "sigmoid": torch.sigmoid_,
        "relu": torch.relu_,
    }[name]
