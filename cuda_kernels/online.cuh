// Training one sample after the other in one block, or in a cluster of BLOCKS blocks: the weights stay there from
// the first sample to the last. What group.cuh's layers need beside that.
//
// network.h is as group.cuh says, but
//
//   using Layers = OnlineChain<SharedLayer<Layer0>, ..., HeldMatrix<Layer4>, FlowingMatrix<Layer5>>;
//
// SharedLayer: one of group.cuh's layers whose weight and bias lie one behind the other in shared memory from
//   SHARED_WEIGHT on; PARTIALS is where its partial sums are, in shared memory too.
// HeldMatrix: a matrix in registers and shared memory. FlowingMatrix: one that is read from global memory and
//   written back there for each sample, for want of room. Their biases lie at SHARED_BIAS.
//
// A matrix's gradient is used where it arises, a weight at a time: nobody stores it. The other layers'
// weights are updated when the backward pass has ended.
//
// Every block of a cluster has all maps, and all weights but those of matrices whose inputs are divided. A
// phase is computed by each block for itself, or divided among them (SPREAD_*): then each result goes to
// all blocks. What a divided phase writes, others must have done with: a barrier of the cluster stands
// behind it, before a gradient that takes the place of an input, and at the end of each sample.

#include "optimizers.cuh"

// The optimiser's update of one sample. Gradients are noted for the last one: by the block that owns a weight, and
// by the first block for those that all have.
template <class Optimizer>
struct OnlineUpdate {
    Optimizer optimizer;
    real *gradients;  // null but for the last sample

    // Updates `parameter`, which has this place in the flat array. OWN: no other block has it.
    template <bool OWN>
    __device__ __forceinline__ void apply(real &parameter, int place, real gradient) const {
        optimizer.apply(parameter, place, gradient);
        if (gradients && (OWN || BLOCKS == 1 || cluster_rank() == 0)) gradients[place] = gradient;
    }
};

// Whether this block writes back what all blocks have.
__device__ __forceinline__ bool first_of_cluster() { return BLOCKS == 1 || cluster_rank() == 0; }

// Copies `count` values by all threads of the block.
__device__ __forceinline__ void copy_values(real *to, const real *from, int count) {
    for (int i = thread_index(); i < count; i += THREADS) to[i] = from[i];
}

template <class L>
struct SharedLayer {
    __device__ __forceinline__ void load(const Work &work, const real *parameters) {
        if constexpr (L::PARTIAL_SIZE > 0)
            copy_values(work.memory + L::SHARED_WEIGHT, parameters + L::WEIGHT, L::PARTIAL_SIZE);
    }
    __device__ __forceinline__ void store(const Work &work, real *parameters) {
        if constexpr (L::PARTIAL_SIZE > 0)
            if (first_of_cluster())
                copy_values(parameters + L::WEIGHT, work.memory + L::SHARED_WEIGHT, L::PARTIAL_SIZE);
    }
    __device__ __forceinline__ void forward(const Work &work) {
        L::Op::template forward<L>(work);
        Share<L::SPREAD_FORWARD>::barrier();
    }

    template <class Update>
    __device__ __forceinline__ void backward(const Work &work, const Update &) {
        L::Op::template grad_parameters<L>(work);
        Share<L::SPREAD_GRAD_PARAMETERS || (L::NEEDS_GRAD_INPUT && L::SPREAD_GRAD_INPUT)>::barrier();
        if constexpr (L::NEEDS_GRAD_INPUT) {
            L::Op::template grad_input<L>(work);
            Share<L::SPREAD_GRAD_INPUT>::barrier();
        }
    }

    template <class Update>
    __device__ __forceinline__ void finish(const Work &work, const Update &update) {
        if constexpr (L::PARTIAL_SIZE > 0)
            for (int i = thread_index(); i < L::PARTIAL_SIZE; i += THREADS) {
                real gradient = 0;
#pragma unroll
                for (int part = 0; part < L::PARTS; ++part)
                    gradient += work.memory[L::PARTIALS + part * L::PARTIAL_SIZE + i];
                update.template apply<false>(work.memory[L::SHARED_WEIGHT + i], L::WEIGHT + i, gradient);
            }
    }
};

// Biases of a matrix layer, in shared memory.
template <class L>
struct MatrixBiases {
    static constexpr int OUTPUTS = L::Output::SIZE, INPUTS = L::Input::SIZE;

    static __device__ __forceinline__ void load(const Work &work, const real *parameters) {
        if constexpr (L::BIAS >= 0) copy_values(work.memory + L::SHARED_BIAS, parameters + L::BIAS, OUTPUTS);
    }
    static __device__ __forceinline__ void store(const Work &work, real *parameters) {
        if constexpr (L::BIAS >= 0)
            if (first_of_cluster()) copy_values(parameters + L::BIAS, work.memory + L::SHARED_BIAS, OUTPUTS);
    }
    template <class Update>
    static __device__ __forceinline__ void finish(const Work &work, const Update &update) {
        if constexpr (L::BIAS >= 0)
            for (int o = thread_index(); o < OUTPUTS; o += THREADS)
                update.template apply<false>(work.memory[L::SHARED_BIAS + o], L::BIAS + o,
                                             work.memory[L::OutputGradient::at(0, o)]);
    }
};

// A matrix (out, in) that the block keeps, or the blocks of a cluster share (SPREAD_FORWARD, for all phases). A warp
// owns OF_WARP inputs, a lane every 32nd output of each: the weights of a warp's first HELD inputs lie in its
// lanes' registers, the others in shared memory from SHARED_WEIGHT on, where lanes hit different banks.
// SCRATCH: THREADS / 32 * out reals of shared memory. ARRIVALS: BLOCKS * out more, of this layer alone.
template <class L>
struct HeldMatrix {
    using Phase = Share<L::SPREAD_FORWARD>;
    static constexpr int INPUTS = L::Input::SIZE, OUTPUTS = L::Output::SIZE, WARPS = THREADS / 32;
    static constexpr int ALL_WARPS = WARPS * (Phase::OF_CLUSTER ? BLOCKS : 1);
    static constexpr int OF_WARP = (INPUTS + ALL_WARPS - 1) / ALL_WARPS, OF_LANE = (OUTPUTS + 31) / 32;
    static constexpr int AT_ONCE = OF_WARP < 32 ? OF_WARP : 32;  // inputs whose gradients a lane sums at a time
    real held[L::HELD > 0 ? L::HELD : 1][OF_LANE];

    struct Lane {
        int warp, lane, first_input;
        __device__ Lane()
            : warp(thread_index() / 32), lane(thread_index() % 32),
              first_input((warp + (Phase::OF_CLUSTER ? cluster_rank() * WARPS : 0)) * OF_WARP) {}
        __device__ int input(int k) const { return first_input + k; }
        __device__ int output(int q) const { return lane + 32 * q; }
        // Of weights in shared memory.
        __device__ int place(int k, int q) const {
            return L::SHARED_WEIGHT + (warp * (OF_WARP - L::HELD) + k - L::HELD) * OUTPUTS + output(q);
        }
        __device__ bool has(int k, int q) const {
            return (ALL_WARPS * OF_WARP == INPUTS || input(k) < INPUTS)
                   && (OF_LANE * 32 == OUTPUTS || output(q) < OUTPUTS);
        }
    };

    // Calls visit(weight, k, q) for each weight of this thread from input `first` of its warp on, `count` inputs.
    template <int FIRST_INPUT, int COUNT, class Visit>
    __device__ __forceinline__ void each(const Work &work, const Lane &lane, Visit visit) {
#pragma unroll
        for (int k = FIRST_INPUT; k < FIRST_INPUT + COUNT; ++k)
#pragma unroll
            for (int q = 0; q < OF_LANE; ++q)
                if (lane.has(k, q)) {
                    if (k < L::HELD)
                        visit(held[k < L::HELD ? k : 0][q], k, q);
                    else
                        visit(work.memory[lane.place(k, q)], k, q);
                }
    }

    __device__ __forceinline__ void load(const Work &work, const real *parameters) {
        const Lane lane;
        each<0, OF_WARP>(work, lane, [&](real &weight, int k, int q) {
            weight = parameters[L::WEIGHT + lane.output(q) * INPUTS + lane.input(k)];
        });
        MatrixBiases<L>::load(work, parameters);
    }
    __device__ __forceinline__ void store(const Work &work, real *parameters) {
        const Lane lane;
        if (Phase::OF_CLUSTER || first_of_cluster())
            each<0, OF_WARP>(work, lane, [&](real &weight, int k, int q) {
                parameters[L::WEIGHT + lane.output(q) * INPUTS + lane.input(k)] = weight;
            });
        MatrixBiases<L>::store(work, parameters);
    }

    // Each warp sums over its inputs, then the warps' sums are added in order, and then the blocks'.
    __device__ __forceinline__ void forward(const Work &work) {
        const Lane lane;
        real sums[OF_LANE] = {};
        each<0, OF_WARP>(work, lane, [&](real &weight, int k, int q) {
            sums[q] += weight * work.memory[L::Input::OFFSET + lane.input(k)];
        });
#pragma unroll
        for (int q = 0; q < OF_LANE; ++q)
            if (lane.output(q) < OUTPUTS) work.memory[L::SCRATCH + lane.warp * OUTPUTS + lane.output(q)] = sums[q];
        __syncthreads();
        for (int o = thread_index(); o < OUTPUTS; o += THREADS) {
            real z = Phase::OF_CLUSTER ? real(0) : bias_of<L>(work, o);
            for (int warp = 0; warp < WARPS; ++warp) z += work.memory[L::SCRATCH + warp * OUTPUTS + o];
            if constexpr (Phase::OF_CLUSTER)
                Phase::put(work, L::ARRIVALS + cluster_rank() * OUTPUTS + o, z);
            else
                work.memory[L::Output::at(0, o)] = L::Squash::value(z);
        }
        if constexpr (Phase::OF_CLUSTER) {
            cluster_barrier();
            for (int o = thread_index(); o < OUTPUTS; o += THREADS) {
                real z = bias_of<L>(work, o);
#pragma unroll
                for (int rank = 0; rank < BLOCKS; ++rank) z += work.memory[L::ARRIVALS + rank * OUTPUTS + o];
                work.memory[L::Output::at(0, o)] = L::Squash::value(z);
            }
        }
        __syncthreads();
    }

    // A weight's part in the gradient by its input, then its own update.
    template <class Update>
    __device__ __forceinline__ void backward(const Work &work, const Update &update) {
        const Lane lane;
        real dz[OF_LANE];
#pragma unroll
        for (int q = 0; q < OF_LANE; ++q)
            dz[q] = lane.output(q) < OUTPUTS ? work.memory[L::OutputGradient::at(0, lane.output(q))] : real(0);
        some_inputs<0>(work, lane, dz, update);
        Phase::barrier();
    }

    template <class Update>
    __device__ __forceinline__ void finish(const Work &work, const Update &update) {
        MatrixBiases<L>::finish(work, update);
    }

private:
    template <int FROM, class Update>
    __device__ __forceinline__ void some_inputs(const Work &work, const Lane &lane, const real (&dz)[OF_LANE],
                                                const Update &update) {
        if constexpr (FROM < OF_WARP) {
            constexpr int COUNT = OF_WARP - FROM < AT_ONCE ? OF_WARP - FROM : AT_ONCE;
            using Sums = LaneSums<32, 1, COUNT>;
            real sums[Sums::PADDED] = {};
            each<FROM, COUNT>(work, lane, [&](real &weight, int k, int q) {
                sums[k - FROM] += weight * dz[q];
                update.template apply<Phase::OF_CLUSTER>(
                    weight, L::WEIGHT + lane.output(q) * INPUTS + lane.input(k),
                    dz[q] * work.memory[L::Input::OFFSET + lane.input(k)]);
            });
            if constexpr (L::NEEDS_GRAD_INPUT) {
                Sums::add(sums);
                __syncwarp();  // all lanes have read the inputs, whose place the gradients take
#pragma unroll
                for (int s = 0; s < Sums::SHARE; ++s) {
                    const int k = Sums::first() + s, i = lane.input(FROM + k);
                    if (Sums::uses() && k < COUNT && i < INPUTS)
                        write_grad_input<L, L::SPREAD_FORWARD>(work, L::Input::OFFSET + i,
                                                               L::InputGradient::OFFSET + i, sums[s]);
                }
            }
            some_inputs<FROM + AT_ONCE>(work, lane, dz, update);
        }
    }
};

// A matrix in global memory: forward is MatrixLayer's, and so is the gradient by the input, each weight of
// which is updated as soon as it has been used.
template <class L>
struct FlowingMatrix {
    static_assert(BLOCKS == 1 || sizeof(L) == 0, "blocks of a cluster would read what another has written already");

    __device__ __forceinline__ void load(const Work &work, const real *parameters) {
        MatrixBiases<L>::load(work, parameters);
    }
    __device__ __forceinline__ void store(const Work &work, real *parameters) {
        MatrixBiases<L>::store(work, parameters);
    }
    __device__ __forceinline__ void forward(const Work &work) {
        MatrixLayer::forward<L>(work);
        __syncthreads();
    }

    // A warp has 8 * VECTOR inputs at a time: 8 packs, each by 4 lanes that share the outputs.
    template <class Update>
    __device__ __forceinline__ void backward(const Work &work, const Update &update) {
        constexpr int INPUTS = L::Input::SIZE, VECTOR = L::VECTOR, WIDTH = 8 * VECTOR;
        using Sums = LaneSums<4, 8, VECTOR>;
        const int thread = thread_index();
        real *weights = const_cast<real *>(work.parameters) + L::WEIGHT;
#pragma unroll 1
        for (int first = thread / 32 * WIDTH; first < INPUTS; first += THREADS / 32 * WIDTH) {
            const int i = first + thread % 8 * VECTOR;
            real sums[Sums::PADDED] = {};
            if (i < INPUTS) {
                real x[VECTOR];
                read_pack(x, work.memory + L::Input::OFFSET + i);
#pragma unroll 4
                for (int o = thread / 8 % 4; o < L::Output::SIZE; o += 4) {
                    real w[VECTOR];
                    read_pack(w, weights + o * INPUTS + i);
                    const real dz = work.memory[L::OutputGradient::at(0, o)];
#pragma unroll
                    for (int v = 0; v < VECTOR; ++v) {
                        sums[v] += w[v] * dz;
                        update.template apply<true>(w[v], L::WEIGHT + o * INPUTS + i + v, dz * x[v]);
                    }
                    write_pack(weights + o * INPUTS + i, w);
                }
            }
            if constexpr (L::NEEDS_GRAD_INPUT) {
                Sums::add(sums);
                __syncwarp();  // all lanes have read the inputs
                if (i >= INPUTS || !Sums::uses()) continue;
#pragma unroll
                for (int s = 0; s < Sums::SHARE; ++s) {
                    const int place = i + Sums::first() + s;
                    if (Sums::first() + s < VECTOR)
                        write_grad_input<L>(work, L::Input::OFFSET + place, L::InputGradient::OFFSET + place, sums[s]);
                }
            }
        }
        __syncthreads();
    }

    template <class Update>
    __device__ __forceinline__ void finish(const Work &work, const Update &update) {
        MatrixBiases<L>::finish(work, update);
    }
};

// Layers in a row. Each leaves a barrier behind what it computes, forward and backward.
template <class... None>
struct OnlineChain {
    __device__ void load(const Work &, const real *) {}
    __device__ void store(const Work &, real *) {}
    __device__ void forward(const Work &) {}
    template <class Update>
    __device__ void backward(const Work &, const Update &) {}
    template <class Update>
    __device__ void finish(const Work &, const Update &) {}
};

template <class Layer, class... Rest>
struct OnlineChain<Layer, Rest...> {
    Layer layer;
    OnlineChain<Rest...> rest;

    __device__ __forceinline__ void load(const Work &work, const real *parameters) {
        layer.load(work, parameters);
        rest.load(work, parameters);
    }
    __device__ __forceinline__ void store(const Work &work, real *parameters) {
        layer.store(work, parameters);
        rest.store(work, parameters);
    }
    __device__ __forceinline__ void forward(const Work &work) {
        layer.forward(work);
        rest.forward(work);
    }
    template <class Update>
    __device__ __forceinline__ void backward(const Work &work, const Update &update) {
        rest.backward(work, update);
        layer.backward(work, update);
    }
    template <class Update>
    __device__ __forceinline__ void finish(const Work &work, const Update &update) {
        layer.finish(work, update);
        rest.finish(work, update);
    }
};
