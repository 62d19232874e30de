"""The layers of `peers_seed.py`: one sample, in float64, map by map.

Arrays are (maps, height, width), or (features,) behind a flatten. A layer keeps what `backward`
needs; `gradients` hold those of its parameters after it.
"""

import numpy as np

from gpucnn.activations import SCALED_TANH_AMPLITUDE, SCALED_TANH_SLOPE


def seed_layers(signal, network):
    """The layers of `network` with its values; `signal` is `scipy.signal`."""
    return [_LAYERS[layer.op](signal, layer) for layer in network.layers]


class _Layer:
    def __init__(self, signal, layer):
        self.name = layer.name
        self._signal = signal
        self._options = layer.options()
        self._squash, self._slope = _ACTIVATIONS[self._options.get("activation", "identity")]
        self.parameters = {name: np.array(values, np.float64)
                           for name, values in layer.parameters.items()}
        self.gradients = {}

    def _remember(self, x, z):
        """The output, squashed."""
        self._x, self._y = x, self._squash(z)
        return self._y

    def _grad_sum(self, grad_output):
        """The derivative of the loss by the sums that were squashed."""
        return grad_output * self._slope(self._y)


class _Conv2d(_Layer):
    """A correlation for each connection."""

    def __init__(self, signal, layer):
        super().__init__(signal, layer)
        self._pairs = layer.connections.pairs.T.tolist()

    def forward(self, x):
        down, right = self._options["padding"]
        x = np.pad(x, [(0, 0), (down, down), (right, right)])
        step_down, step_right = self._options["stride"]
        z = [0.0] * self._options["out_maps"]
        for weight, (in_map, out_map) in zip(self.parameters["weight"], self._pairs, strict=True):
            z[out_map] = z[out_map] + self._signal.correlate2d(
                x[in_map], weight, "valid")[::step_down, ::step_right]
        z = np.array(z)
        if "bias" in self.parameters:
            z += self.parameters["bias"][:, None, None]
        return self._remember(x, z)

    def backward(self, grad_output, needs_grad_input):
        grad_sum = self._grad_sum(grad_output)
        self.gradients["bias"] = grad_sum.sum(axis=(1, 2))
        spread = _spread(grad_sum, self._options["stride"])
        weight = self.parameters["weight"]
        grad_weight, grad_x = np.empty_like(weight), np.zeros_like(self._x)
        # A stride may leave the last rows and columns unread.
        height, width = (own + size - 1 for own, size in zip(spread.shape[1:], weight.shape[1:],
                                                             strict=True))
        read, grad_read = self._x[:, :height, :width], grad_x[:, :height, :width]
        for number, (in_map, out_map) in enumerate(self._pairs):
            grad_weight[number] = self._signal.correlate2d(read[in_map], spread[out_map], "valid")
            if needs_grad_input:
                grad_read[in_map] += self._signal.convolve2d(spread[out_map], weight[number])
        self.gradients["weight"] = grad_weight
        down, right = self._options["padding"]
        return grad_x[:, down:grad_x.shape[1] - down, right:grad_x.shape[2] - right]


class _Subsample2d(_Layer):
    """A correlation of each map with a window of ones."""

    def forward(self, x):
        self._window = np.ones(self._options["pool_size"])
        step_down, step_right = self._options["stride"]
        self._sums = np.array([
            self._signal.correlate2d(plane, self._window, "valid")[::step_down, ::step_right]
            for plane in x])
        if not self._options["trainable"]:
            return self._remember(x, self._sums / self._window.size)
        return self._remember(x, self._sums * self.parameters["coefficient"][:, None, None]
                              + self.parameters["bias"][:, None, None])

    def backward(self, grad_output, needs_grad_input):
        grad_sum = self._grad_sum(grad_output)
        coefficient = np.full(len(grad_sum), 1 / self._window.size)
        if self._options["trainable"]:
            coefficient = self.parameters["coefficient"]
            self.gradients["coefficient"] = (grad_sum * self._sums).sum(axis=(1, 2))
            self.gradients["bias"] = grad_sum.sum(axis=(1, 2))
        grad_x = np.zeros_like(self._x)
        spread = _spread(grad_sum, self._options["stride"])
        for number, plane in enumerate(spread):
            gradient = self._signal.convolve2d(coefficient[number] * plane, self._window)
            grad_x[number, :gradient.shape[0], :gradient.shape[1]] = gradient
        return grad_x


class _MaxPool2d(_Layer):
    """Window by window; the first maximum takes the gradient."""

    def forward(self, x):
        (height, width), (down, right) = self._options["pool_size"], self._options["stride"]
        y = np.empty((len(x), (x.shape[1] - height) // down + 1,
                      (x.shape[2] - width) // right + 1))
        self._places = []
        for place in np.ndindex(y.shape):
            in_map, top, left = place[0], place[1] * down, place[2] * right
            window = x[in_map, top:top + height, left:left + width]
            row, column = divmod(int(window.argmax()), width)
            self._places.append((place, (in_map, top + row, left + column)))
            y[place] = window[row, column]
        return self._remember(x, y)

    def backward(self, grad_output, needs_grad_input):
        grad_x = np.zeros_like(self._x)
        for place, highest in self._places:
            grad_x[highest] += grad_output[place]
        return grad_x


class _Dense(_Layer):
    """A product with the vector of features, at each position."""

    def forward(self, x):
        features = x.reshape(len(x), -1)
        z = self.parameters["weight"] @ features + self.parameters["bias"][:, None]
        return self._remember(x, z.reshape(-1, *x.shape[1:]))

    def backward(self, grad_output, needs_grad_input):
        grad_sum = self._grad_sum(grad_output).reshape(len(grad_output), -1)
        self.gradients["weight"] = grad_sum @ self._x.reshape(len(self._x), -1).T
        self.gradients["bias"] = grad_sum.sum(axis=1)
        return (self.parameters["weight"].T @ grad_sum).reshape(self._x.shape)


class _Flatten(_Layer):
    def forward(self, x):
        self._shape = x.shape
        return x.reshape(-1)

    def backward(self, grad_output, needs_grad_input):
        return grad_output.reshape(self._shape)


_LAYERS = {"conv2d": _Conv2d, "subsample2d": _Subsample2d, "dense": _Dense,
           "max_pool2d": _MaxPool2d, "flatten": _Flatten}


def _spread(planes, stride):
    """Planes with stride - 1 zeros between rows and between columns."""
    down, right = stride
    maps, height, width = planes.shape
    spread = np.zeros((maps, (height - 1) * down + 1, (width - 1) * right + 1))
    spread[:, ::down, ::right] = planes
    return spread


# Name -> (y of z, dy/dz of y).
_ACTIVATIONS = {
    "identity": (lambda z: z, np.ones_like),
    "scaled_tanh": (
        lambda z: SCALED_TANH_AMPLITUDE * np.tanh(SCALED_TANH_SLOPE * z),
        lambda y: (SCALED_TANH_SLOPE / SCALED_TANH_AMPLITUDE
                   * (SCALED_TANH_AMPLITUDE - y) * (SCALED_TANH_AMPLITUDE + y))),
    "tanh": (np.tanh, lambda y: 1 - y * y),
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda y: y * (1 - y)),
    "relu": (lambda z: np.maximum(z, 0), lambda y: y > 0),
}
