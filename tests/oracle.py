"""The oracle: every op as plain loops in float64, after the definitions in backends/base.py.

It is slow and obviously right. Backward functions take the same `output` as the op under test.
How far a result may be from the oracle's is stated here too, once.
"""

import math

import numpy as np

TOLERANCE = {np.dtype(np.float64): 1e-10, np.dtype(np.float32): 1e-4}


def relative_error(got, expected):
    """The norm of the difference over the norm of the reference (of 1, if that is zero)."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape, f"expected shape {expected.shape}, got {got.shape}"
    return np.linalg.norm(got - expected) / (np.linalg.norm(expected) or 1.0)


def assert_close(got, expected, dtype):
    """Compare dictionaries of arrays, array by array: integers exactly, None with None."""
    for name, reference in expected.items():
        if reference is None or got[name] is None:
            assert got[name] is reference, name
            continue
        if reference.dtype.kind == "i":
            np.testing.assert_array_equal(got[name], reference, name)
            continue
        error = relative_error(got[name], reference)
        assert error <= TOLERANCE[np.dtype(dtype)], f"{name}: relative error {error:.2e}"


# -- activations -----------------------------------------------------------------------------------


def squash(activation, z):
    """y(z)."""
    return {
        "identity": lambda: z,
        "scaled_tanh": lambda: 1.7159 * np.tanh(2 / 3 * z),
        "tanh": lambda: np.tanh(z),
        "sigmoid": lambda: 1 / (1 + np.exp(-z)),
        "relu": lambda: np.where(z > 0, z, 0.0),
    }[activation]()


def slope(activation, y):
    """dy/dz from y."""
    return {
        "identity": lambda: np.ones_like(y),
        "scaled_tanh": lambda: 2 / 3 / 1.7159 * (1.7159 - y) * (1.7159 + y),
        "tanh": lambda: 1 - y * y,
        "sigmoid": lambda: y * (1 - y),
        "relu": lambda: np.where(y > 0, 1.0, 0.0),
    }[activation]()


def _dz(grad_output, output, activation):
    output = np.asarray(output, np.float64)
    return np.asarray(grad_output, np.float64) * slope(activation, output)


# -- maps ------------------------------------------------------------------------------------------


def _positions(size, window, stride):
    """(oy, ox, the slices of its window's rows and columns) of every output pixel."""
    height = (size[0] - window[0]) // stride[0] + 1
    width = (size[1] - window[1]) // stride[1] + 1
    return height, width, [
        (oy, ox, slice(oy * stride[0], oy * stride[0] + window[0]),
         slice(ox * stride[1], ox * stride[1] + window[1]))
        for oy in range(height) for ox in range(width)]


def _padded(x, padding):
    (vertical, horizontal) = padding
    return np.pad(np.asarray(x, np.float64),
                  ((0, 0), (0, 0), (vertical, vertical), (horizontal, horizontal)))


def conv2d(x, weight, bias, connections, *, stride, padding, activation):
    padded, weight = _padded(x, padding), np.asarray(weight, np.float64)
    height, width, positions = _positions(padded.shape[2:], weight.shape[1:], stride)
    z = np.zeros((len(x), connections.out_maps, height, width))
    for c, (i, o) in enumerate(connections.pairs.T):
        for oy, ox, rows, columns in positions:
            z[:, o, oy, ox] += (padded[:, i, rows, columns] * weight[c]).sum((1, 2))
    if bias is not None:
        z += np.asarray(bias, np.float64)[:, None, None]
    return squash(activation, z)


def conv2d_backward(grad_output, output, x, weight, connections, *, stride, padding, activation):
    """(grad_input, grad_weight, grad_bias)."""
    padded, weight = _padded(x, padding), np.asarray(weight, np.float64)
    dz = _dz(grad_output, output, activation)
    _, _, positions = _positions(padded.shape[2:], weight.shape[1:], stride)
    grad_padded, grad_weight = np.zeros_like(padded), np.zeros_like(weight)
    for c, (i, o) in enumerate(connections.pairs.T):
        for oy, ox, rows, columns in positions:
            here = dz[:, o, oy, ox, None, None]
            grad_weight[c] += (here * padded[:, i, rows, columns]).sum(0)
            grad_padded[:, i, rows, columns] += here * weight[c]
    (top, left), (height, width) = padding, x.shape[2:]
    return (grad_padded[:, :, top:top + height, left:left + width], grad_weight,
            dz.sum((0, 2, 3)))


def subsample2d(x, coefficient, bias, *, pool_size, stride, activation):
    x, coefficient = np.asarray(x, np.float64), np.asarray(coefficient, np.float64)
    height, width, positions = _positions(x.shape[2:], pool_size, stride)
    z = np.zeros((*x.shape[:2], height, width))
    for oy, ox, rows, columns in positions:
        z[:, :, oy, ox] = coefficient * x[:, :, rows, columns].sum((2, 3))
    if bias is not None:
        z += np.asarray(bias, np.float64)[:, None, None]
    return squash(activation, z)


def subsample2d_backward(grad_output, output, x, coefficient, *, pool_size, stride, activation):
    """(grad_input, grad_coefficient, grad_bias)."""
    x, coefficient = np.asarray(x, np.float64), np.asarray(coefficient, np.float64)
    dz = _dz(grad_output, output, activation)
    grad_input, grad_coefficient = np.zeros_like(x), np.zeros_like(coefficient)
    for oy, ox, rows, columns in _positions(x.shape[2:], pool_size, stride)[2]:
        here = dz[:, :, oy, ox]
        grad_input[:, :, rows, columns] += (coefficient * here)[:, :, None, None]
        grad_coefficient += (here * x[:, :, rows, columns].sum((2, 3))).sum(0)
    return grad_input, grad_coefficient, dz.sum((0, 2, 3))


def _first_maximum(window):
    """(row, column) of a window's first maximum in row-major order; a NaN is the largest."""
    best = (0, 0)
    for row in range(window.shape[0]):
        for column in range(window.shape[1]):
            if math.isnan(window[best]):
                return best
            if window[row, column] > window[best] or math.isnan(window[row, column]):
                best = (row, column)
    return best


def max_pool2d(x, *, pool_size, stride):
    height, width, positions = _positions(x.shape[2:], pool_size, stride)
    output = np.zeros((*x.shape[:2], height, width))
    for n in range(x.shape[0]):
        for m in range(x.shape[1]):
            for oy, ox, rows, columns in positions:
                window = x[n, m, rows, columns]
                output[n, m, oy, ox] = window[_first_maximum(window)]
    return output


def max_pool2d_backward(grad_output, x, *, pool_size, stride):
    grad_input = np.zeros(x.shape)
    for n in range(x.shape[0]):
        for m in range(x.shape[1]):
            for oy, ox, rows, columns in _positions(x.shape[2:], pool_size, stride)[2]:
                row, column = _first_maximum(x[n, m, rows, columns])
                grad_input[n, m, rows.start + row, columns.start + column] += (
                    grad_output[n, m, oy, ox])
    return grad_input


def dense(x, weight, bias, *, activation):
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    z = np.zeros((len(x), len(weight), *x.shape[2:]))
    for o in range(weight.shape[0]):
        for i in range(weight.shape[1]):
            z[:, o] += weight[o, i] * x[:, i]
        if bias is not None:
            z[:, o] += float(bias[o])
    return squash(activation, z)


def dense_backward(grad_output, output, x, weight, *, activation):
    """(grad_input, grad_weight, grad_bias)."""
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    dz = _dz(grad_output, output, activation)
    grad_input, grad_weight = np.zeros_like(x), np.zeros_like(weight)
    grad_bias = np.zeros(len(weight))
    for o in range(weight.shape[0]):
        for i in range(weight.shape[1]):
            grad_input[:, i] += weight[o, i] * dz[:, o]
            grad_weight[o, i] = (dz[:, o] * x[:, i]).sum()
        grad_bias[o] = dz[:, o].sum()
    return grad_input, grad_weight, grad_bias


def _volumes(x, weight1):
    """For each position of the first layer's kernel: (oy, ox, rows, columns)."""
    return _positions(x.shape[2:], weight1.shape[2:], (1, 1))


def classifier(x, weight1, bias1, weight2, bias2, *, activation):
    """(hidden, output): each hidden unit sees a volume of all maps."""
    x, weight1 = np.asarray(x, np.float64), np.asarray(weight1, np.float64)
    height, width, positions = _volumes(x, weight1)
    z = np.zeros((len(x), len(weight1), height, width))
    for h in range(len(weight1)):
        for oy, ox, rows, columns in positions:
            z[:, h, oy, ox] = (x[:, :, rows, columns] * weight1[h]).sum((1, 2, 3))
        if bias1 is not None:
            z[:, h] += float(bias1[h])
    hidden = squash(activation, z)
    return hidden, dense(hidden, weight2, bias2, activation=activation)


def classifier_backward(grad_output, hidden, output, x, weight1, bias1, weight2, bias2, *,
                        activation):
    """(grad_input, grad_weight1, grad_bias1, grad_weight2, grad_bias2)."""
    grad_hidden, grad_weight2, grad_bias2 = dense_backward(grad_output, output, hidden, weight2,
                                                           activation=activation)
    x, weight1 = np.asarray(x, np.float64), np.asarray(weight1, np.float64)
    dz = _dz(grad_hidden, hidden, activation)
    grad_input, grad_weight1 = np.zeros_like(x), np.zeros_like(weight1)
    for h in range(len(weight1)):
        for oy, ox, rows, columns in _volumes(x, weight1)[2]:
            here = dz[:, h, oy, ox, None, None, None]
            grad_weight1[h] += (here * x[:, :, rows, columns]).sum(0)
            grad_input[:, :, rows, columns] += here * weight1[h]
    return (grad_input, grad_weight1, None if bias1 is None else dz.sum((0, 2, 3)),
            grad_weight2, None if bias2 is None else grad_bias2)


# -- training --------------------------------------------------------------------------------------


def gather(images, labels, order, shifts, *, input_range, out_size):
    """(batch, its labels): each image scaled, centred, shifted, on the background."""
    low, high = input_range
    batch = np.full((len(order), images.shape[1], *out_size), float(low))
    top, left = (out_size[0] - images.shape[2]) // 2, (out_size[1] - images.shape[3]) // 2
    for k, number in enumerate(order):
        down, right = (0, 0) if shifts is None else shifts[k]
        for m, y, x in np.ndindex(images.shape[1:]):
            value = float(images[number, m, y, x])
            if images.dtype == np.uint8:
                value = low + value / 255 * (high - low)
            to_y, to_x = y + top + down, x + left + right
            if 0 <= to_y < out_size[0] and 0 <= to_x < out_size[1]:
                batch[k, m, to_y, to_x] = value
    return batch, None if labels is None else labels[order]


def mse(output, labels, *, target):
    """(loss, grad_output, totals)."""
    return _loss(output, labels, lambda row, label: _mse_of_sample(row, label, target))


def cross_entropy(output, labels):
    """(loss, grad_output, totals)."""
    return _loss(output, labels, _cross_entropy_of_sample)


def _mse_of_sample(row, label, target):
    differences = [value - (target if c == label else -target) for c, value in enumerate(row)]
    return 0.5 * sum(difference * difference for difference in differences), differences


def _cross_entropy_of_sample(row, label):
    highest = max(row)
    powers = [math.exp(value - highest) for value in row]
    shares = [power / sum(powers) for power in powers]
    return (math.log(sum(powers)) + highest - row[label],
            [share - (1 if c == label else 0) for c, share in enumerate(shares)])


def _loss(output, labels, of_sample):
    total, errors, bad = 0.0, 0, 0
    grad_output = np.zeros(output.shape)
    for n, label in enumerate(labels):
        row = [float(value) for value in output[n]]
        if not 0 <= label < len(row):
            errors, bad = errors + 1, bad + 1
            continue
        loss, gradient = of_sample(row, label)
        total += loss
        grad_output[n] = [value / len(labels) for value in gradient]
        errors += row.index(max(row)) != label
    return total / len(labels), grad_output, np.array([total, errors, bad])


def sgd_step(parameters, gradients, velocity, *, rate, momentum, nesterov, weight_decay):
    """(parameters, velocity) after one step; `velocity` is None without momentum."""
    after, moved = [], []
    for number, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        g = float(gradient) + weight_decay * float(parameter)
        step = g
        if velocity is not None:
            moved.append(momentum * float(velocity[number]) + g)
            step = g + momentum * moved[-1] if nesterov else moved[-1]
        after.append(float(parameter) - rate * step)
    return np.array(after), None if velocity is None else np.array(moved)


def adam_step(parameters, gradients, mean, square, *, step, rate, beta1, beta2, epsilon,
              weight_decay):
    """(parameters, mean, square) after step number `step`, counted from 1."""
    after, means, squares = [], [], []
    for parameter, gradient, m, s in zip(parameters, gradients, mean, square, strict=True):
        g = float(gradient) + weight_decay * float(parameter)
        means.append(beta1 * float(m) + (1 - beta1) * g)
        squares.append(beta2 * float(s) + (1 - beta2) * g * g)
        corrected_mean = means[-1] / (1 - beta1 ** step)
        corrected_square = squares[-1] / (1 - beta2 ** step)
        after.append(float(parameter)
                     - rate * corrected_mean / (math.sqrt(corrected_square) + epsilon))
    return np.array(after), np.array(means), np.array(squares)
