// A group of neighbouring layers, computed by one block for SAMPLES samples at a time with everything
// in shared memory: the maps between the layers, and small weights.
//
// The kernels are group_forward.cu and group_backward.cu. Two headers are generated for them
// (gpucnn/backends/cuda/plan/description.py). constants.h has THREADS, SAMPLES, BATCH (the largest batch),
// MEMORY (reals of shared memory), FIRST and LAST (whether the group has the images, and the loss).
// network.h describes the network:
//
//   using Maps0 = Maps<OFFSET, MAPS, HEIGHT, WIDTH, PITCH, MAP, SAMPLE>;      // for each boundary
//   struct C1 {                                       // for each layer, under its own name
//       using Op = Conv2dLayer;                       // the functions below that compute it
//       using Input = Maps0; using Output = Maps1;    // where its maps lie
//       using InputGradient = Maps0; using OutputGradient = Maps1;
//       using Squash = ScaledTanh; using Before = Identity;    // its activation, and that of its input
//       static constexpr bool NEEDS_GRAD_INPUT = false;
//       static constexpr int WEIGHT = 0, BIAS = 150;  // places in the flat array of parameters
//       ...                                           // what its Op asks for, see there
//   };
//   using Layers = Chain<C1, S2, ...>;
//
// An Op has three functions, which all threads of the block enter together; barriers stand between
// them, not inside:
//   forward          reads Input, writes Output
//   grad_parameters  reads Input and OutputGradient, adds to this block's partial sums
//   grad_input       reads OutputGradient, writes InputGradient times the slope of `Before`
// A gradient takes the place of the output it belongs to (InputGradient is Input), as whoever
// computes an element of it is the last to read that output: so the maps need memory once. To add a
// layer, write such an Op and its description; gpucnn/backends/cuda/plan/__init__.py says where.

#include "settle.cuh"

// Where the maps of SAMPLES samples lie in shared memory: rows PITCH apart, maps MAP, samples SAMPLE.
// OFFSET is the first pixel; around each map there may be a border of zeros, for a padded convolution.
template <int Offset, int MapCount, int Height, int Width, int Pitch, int Map, int Sample>
struct Maps {
    static constexpr int OFFSET = Offset, MAPS = MapCount, HEIGHT = Height, WIDTH = Width, PITCH = Pitch,
                         MAP = Map, SAMPLE = Sample, PIXELS = Height * Width, SIZE = MapCount * PIXELS;

    static __device__ __forceinline__ int at(int n, int map, int row = 0, int column = 0) {
        return OFFSET + n * SAMPLE + map * MAP + row * PITCH + column;
    }
    // The place of pixel i of a sample, counted as in an array (maps, height, width).
    static __device__ __forceinline__ int at_pixel(int n, int i) {
        if constexpr (PITCH == WIDTH && MAP == PIXELS) return OFFSET + n * SAMPLE + i;
        return at(n, i / PIXELS, i / WIDTH % HEIGHT, i % WIDTH);
    }
};

// What the layers of a block share while they compute one part of a batch.
struct Work {
    real *memory;              // the block's shared memory
    const real *parameters;    // all of the network's, in global memory
    real *partials;            // this block's partial sums, see the layers' PARTIALS
    real *saved;               // the inputs and gradients of matrix layers, see the layers' SAVED_*
    int first, samples;        // the first sample of this part; the samples of the whole batch
    bool adds;                 // whether the block has partial sums from an earlier part
    int block;                 // whose rows of partial sums it brings
};

// How a phase of a layer is divided: among the threads of this block, which then has all results; or (SPREAD)
// among those of all BLOCKS blocks of a cluster, each of which has all maps and gets every result.
template <bool SPREAD>
struct Share {
    static constexpr bool OF_CLUSTER = SPREAD && BLOCKS > 1;
    static constexpr int STEP = OF_CLUSTER ? BLOCKS * THREADS : THREADS;

    static __device__ __forceinline__ int first(int thread) {
        if constexpr (OF_CLUSTER) return cluster_rank() * THREADS + thread;
        return thread;
    }
    // Writes a result to `at` in the shared memory of every block that is to have it.
    static __device__ __forceinline__ void put(const Work &work, int at, real value) {
        if constexpr (OF_CLUSTER) {
#pragma unroll
            for (int rank = 0; rank < BLOCKS; ++rank) store_to_block(work.memory + at, rank, value);
        } else {
            work.memory[at] = value;
        }
    }
    static __device__ __forceinline__ void barrier() {
        if constexpr (OF_CLUSTER)
            cluster_barrier();
        else
            __syncthreads();
    }
};

// Brings a partial sum into global memory. No other thread ever touches the address. In online training the sums
// stay in shared memory.
template <bool SPREAD = false>
__device__ __forceinline__ void bring(const Work &work, size_t place, real sum) {
    if constexpr (SPREAD)
        Share<SPREAD>::put(work, int(place), sum);
    else
        work.partials[place] = work.adds ? work.partials[place] + sum : sum;
}

// threadIdx.x, read anew: what a phase works out from it is not kept in registers over the other
// phases, as the compiler would do if it knew that it is the same for each part of the batch.
__device__ __forceinline__ int thread_index() {
#ifdef CUDA_ON_CPU
    return threadIdx.x;
#else
    int index;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
    return index;
#endif
}

// `value` anew, in the same sense.
__device__ __forceinline__ int anew(int value) {
#ifndef CUDA_ON_CPU
    asm volatile("" : "+r"(value));
#endif
    return value;
}

// Calls visit(n, i) for each of COUNT things of each sample, a thread one after the other; AT_ONCE of them where
// they wait for global memory.
template <int COUNT, int AT_ONCE = 1, typename Visit>
__device__ __forceinline__ void each_of_samples(Visit visit) {
#pragma unroll AT_ONCE
    for (int i = thread_index(); i < SAMPLES * COUNT; i += THREADS) visit(i / COUNT, i % COUNT);
}

// Calls store(n, i, value(n, i)) for each of COUNT things of each sample, AT_ONCE of a thread at a time: their values
// are there before any is stored, as a load waits for stores that may go to the same place.
template <int COUNT, int AT_ONCE, typename Value, typename Store>
__device__ __forceinline__ void each_value_of_samples(Value value, Store store) {
    constexpr int ALL = SAMPLES * COUNT;
#pragma unroll 1
    for (int first = thread_index(); first < ALL; first += AT_ONCE * THREADS) {
        real values[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; ++k) {
            const int i = min(first + k * THREADS, ALL - 1);
            values[k] = value(i / COUNT, i % COUNT);
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; ++k) settle(values[k]);
#pragma unroll
        for (int k = 0; k < AT_ONCE; ++k) {
            const int i = first + k * THREADS;
            if (i < ALL) store(i / COUNT, i % COUNT, values[k]);
        }
    }
}

// Layers in a row, computed one after the other with barriers between.
template <class... None>
struct Chain {
    static __device__ void load_weights(const Work &) {}
    static __device__ void forward(const Work &) {}
    static __device__ void backward(const Work &) {}
};

template <class Layer, class... Rest>
struct Chain<Layer, Rest...> {
    static __device__ __forceinline__ void load_weights(const Work &work) {
        if constexpr (Layer::SHARED_WEIGHT >= 0)
            for (int i = threadIdx.x; i < Layer::WEIGHT_SIZE; i += THREADS)
                work.memory[Layer::SHARED_WEIGHT + i] = work.parameters[Layer::WEIGHT + i];
        Chain<Rest...>::load_weights(work);
    }
    static __device__ __forceinline__ void forward(const Work &work) {
        Layer::Op::template forward<Layer>(work);
        __syncthreads();
        Chain<Rest...>::forward(work);
    }
    static __device__ __forceinline__ void backward(const Work &work) {
        Chain<Rest...>::backward(work);
        Layer::Op::template grad_parameters<Layer>(work);
        if constexpr (Layer::NEEDS_GRAD_INPUT) {
            __syncthreads();
            Layer::Op::template grad_input<Layer>(work);
        }
        __syncthreads();
    }
};

// A layer's weight: in shared memory if it was loaded there, else in global memory.
template <class L>
__device__ __forceinline__ const real *weight_of(const Work &work) {
    if constexpr (L::SHARED_WEIGHT >= 0) return work.memory + L::SHARED_WEIGHT;
    return work.parameters + L::WEIGHT;
}

template <class L>
__device__ __forceinline__ real bias_of(const Work &work, int map) {
    if constexpr (L::SHARED_BIAS >= 0) return work.memory[L::SHARED_BIAS + map];
    if constexpr (L::BIAS >= 0) return work.parameters[L::BIAS + map];
    return real(0);
}

// Writes the gradient by the element of the input at `at`, whose own value is still there to be read.
template <class L, bool SPREAD = false>
__device__ __forceinline__ void write_grad_input(const Work &work, int at, int gradient_at, real gradient) {
    Share<SPREAD>::put(work, gradient_at, gradient * L::Before::slope(work.memory[at]));
}

// Zeroes the block's memory, for the borders around maps, and brings small weights there.
template <class Layers>
__device__ __forceinline__ void prepare(const Work &work) {
    for (int i = threadIdx.x; i < MEMORY; i += THREADS) work.memory[i] = 0;
    __syncthreads();
    Layers::load_weights(work);
    __syncthreads();
}
