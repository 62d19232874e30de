// One update of one parameter, as PyTorch's SGD and Adam define it.
//
//   g = gradient + weight_decay * parameter
//   sgd:   velocity = momentum * velocity + g
//          parameter -= rate * (nesterov ? g + momentum * velocity : velocity)
//   adam:  mean = beta1 * mean + (1 - beta1) * g;  square = beta2 * square + (1 - beta2) * g^2
//          parameter -= rate * mean / (sqrt(square) * correction + epsilon)
//
// Every kernel that updates parameters calls these functions, so that all give the same bits. Compilers
// for GPUs fuse a product with the sum that it goes into. `fma` says which of two products, where
// there is a choice.

// Without momentum nothing is remembered: `velocity` is left alone.
__device__ inline void sgd_update(real &parameter, real &velocity, real gradient, real rate, real momentum,
                                  bool remembers, bool nesterov, real weight_decay) {
    const real g = gradient + weight_decay * parameter;
    real step = g;
    if (remembers) {
        velocity = momentum * velocity + g;
        step = nesterov ? g + momentum * velocity : velocity;
    }
    parameter -= rate * step;
}

__device__ inline void adam_update(real &parameter, real &mean, real &square, real gradient, real rate,
                                   real correction, real beta1, real beta2, real one_minus_beta1,
                                   real one_minus_beta2, real epsilon, real weight_decay) {
    const real g = gradient + weight_decay * parameter;
    mean = fma(beta1, mean, one_minus_beta1 * g);
    square = fma(beta2, square, one_minus_beta2 * g * g);
    parameter -= rate * mean / (sqrt(square) * correction + epsilon);
}
