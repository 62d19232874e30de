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

// The optimisers of the kernels that update whole networks, on flat arrays of parameters and state. What they
// need of a parameter can be read before its gradient is known: `load`. `apply` updates a parameter that
// lies elsewhere, with the state of number i.
struct Sgd {
    static constexpr int SCALARS = 1;
    struct Slot {
        real parameter, velocity;
    };
    real *parameters, *velocity;
    real momentum, weight_decay, rate;
    bool nesterov;

    __device__ Sgd(real *all, real *first, real *, const real *constants, const real *scalars)
        : parameters(all), velocity(first), momentum(constants[0]), weight_decay(constants[2]),
          rate(scalars[0]), nesterov(constants[1] != 0) {}
    __device__ Slot load(int i) const { return {parameters[i], velocity ? velocity[i] : real(0)}; }
    __device__ void update(int i, Slot slot, real gradient) const {
        sgd_update(slot.parameter, slot.velocity, gradient, rate, momentum, velocity, nesterov, weight_decay);
        parameters[i] = slot.parameter;
        if (velocity) velocity[i] = slot.velocity;
    }
    __device__ void apply(real &parameter, int i, real gradient) const {
        real before = velocity ? velocity[i] : real(0);
        sgd_update(parameter, before, gradient, rate, momentum, velocity, nesterov, weight_decay);
        if (velocity) velocity[i] = before;
    }
};

struct Adam {
    static constexpr int SCALARS = 2;
    struct Slot {
        real parameter, mean, square;
    };
    real *parameters, *means, *squares;
    real beta1, beta2, one_minus_beta1, one_minus_beta2, epsilon, weight_decay, rate, correction;

    __device__ Adam(real *all, real *first, real *second, const real *constants, const real *scalars)
        : parameters(all), means(first), squares(second), beta1(constants[0]), beta2(constants[1]),
          one_minus_beta1(constants[2]), one_minus_beta2(constants[3]), epsilon(constants[4]),
          weight_decay(constants[5]), rate(scalars[0]), correction(scalars[1]) {}
    __device__ Slot load(int i) const { return {parameters[i], means[i], squares[i]}; }
    __device__ void update(int i, Slot slot, real gradient) const {
        adam_update(slot.parameter, slot.mean, slot.square, gradient, rate, correction, beta1, beta2,
                    one_minus_beta1, one_minus_beta2, epsilon, weight_decay);
        parameters[i] = slot.parameter;
        means[i] = slot.mean;
        squares[i] = slot.square;
    }
    __device__ void apply(real &parameter, int i, real gradient) const {
        adam_update(parameter, means[i], squares[i], gradient, rate, correction, beta1, beta2, one_minus_beta1,
                    one_minus_beta2, epsilon, weight_decay);
    }
};
