// Neighbouring reals as one access to memory: COUNT of them, at a multiple of their size (of 16 bytes where that is
// larger).

template <int COUNT>
struct alignas(COUNT * sizeof(real) < 16 ? COUNT * sizeof(real) : 16) Pack {
    real at[COUNT];
};

using Four = Pack<4>;
