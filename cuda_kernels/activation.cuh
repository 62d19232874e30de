// The activations: y(z), and the slope dy/dz taken from y. gpucnn/activations.py has the table.
//
// A specialisation names one of these structs as `Squash` in its generated constants.h.

struct Identity {
    template <typename T> static __device__ T value(T z) { return z; }
    template <typename T> static __device__ T slope(T) { return T(1); }
};

struct ScaledTanh {
    template <typename T> static __device__ T value(T z) { return T(1.7159) * tanh(T(2.0 / 3.0) * z); }
    template <typename T> static __device__ T slope(T y) {
        return T(2.0 / 3.0 / 1.7159) * (T(1.7159) - y) * (T(1.7159) + y);
    }
};

struct Tanh {
    template <typename T> static __device__ T value(T z) { return tanh(z); }
    template <typename T> static __device__ T slope(T y) { return (T(1) - y) * (T(1) + y); }
};

struct Sigmoid {
    template <typename T> static __device__ T value(T z) { return T(1) / (T(1) + exp(-z)); }
    template <typename T> static __device__ T slope(T y) { return y * (T(1) - y); }
};

struct Relu {
    template <typename T> static __device__ T value(T z) { return z < T(0) ? T(0) : z; }
    template <typename T> static __device__ T slope(T y) { return y > T(0) ? T(1) : T(0); }
};
