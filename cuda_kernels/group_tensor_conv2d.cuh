// TensorConv2dLayer: Conv2dLayer's three functions as matrix products on tensor cores, in TF32. Float only.
//
// A *strip* is PIXELS neighbouring pixels of a row, a *position* a strip of one sample: strips of all SAMPLES
// samples are counted together. A strip sees a window of WINDOW = (PIXELS - 1) * STRIDE_X + KERNEL_WIDTH
// columns, and pixel p of it sees column c through the tap kx = c - p * STRIDE_X, if there is one. So with (map, p)
// as one index of a product and (other map, c) as the other, the weights for a row ky of the taps are a matrix
// with zeros where nothing is joined; more pixels fill the tiles of few maps, and save loads, for more such zeros.
//
//   forward and grad_input, D = A B:
//     D[position][map, p] = sum over ky and (other map, c) of A[position][other map, c] * B(ky)[other map, c][map, p]
//     A is read from the maps where row ky of the position's window lies; B are the weights. grad_input is
//     the same with dz for the maps, the taps turned round, and zeros outside dz. Only with stride 1.
//   grad_weight, D = A B:
//     D(ky)[map, p][other map, c] = sum over rows and positions of A[map, p][position] * B(ky)[position][other map, c]
//     A is dz, B are the input maps. What belongs to no tap is dropped; each p has its own partial sums.
//
// Fragments (mma.cuh): D's rows go by 16, its columns by 8, sums by 8. A warp computes a unit: a tile of 16
// rows and TILES tiles of columns, for ROWS rows of the map (forward, grad_input), or for all ky
// (grad_weight). So operands read from the maps serve KERNEL_HEIGHT products, as a window slides down: in forward
// the weights of 8 (other map, c) are in registers for all rows; in grad_weight the ROWS rows of dz.
//
// Columns of maps are taken in an order in which maps with similar connections are neighbours, and a
// set of TILES tiles of them is multiplied only with the maps that any of them is joined to. An index beyond
// the end has zeros in one operand, and whatever finite value lies nearest in the other.
//
// A layer's description has, besides what Conv2dLayer asks for, connection_between(i, o), the number of the
// connection or -1, and structs TensorForward, TensorInput and TensorWeight:
//   PASSES                1, 2 or 3 products for each (mma.cuh); 0: Conv2dLayer computes this
//   PIXELS, ROWS, TILES   as above; a strip is no wider than the map, and ROWS no more than its rows
//   SETS, map(place)      sets of columns (map, p) (in grad_weight of 16 rows), and the order of maps
//   first(set), other(e)  the maps that a set is joined to: other(e) for first(set) <= e < first(set + 1)
//   MOST                  how many that are at most
//   SPLITS                (TensorWeight) how many warps share a sum; PARTS is SPLITS * PIXELS

#include "group_tensor_product.cuh"
#include "group_tensor_weight.cuh"

struct TensorConv2dLayer {
    template <class L>
    static __device__ __forceinline__ void forward(const Work &work) {
        if constexpr (L::TensorForward::PASSES > 0)
            TensorProduct::multiply<L, ForwardProduct<L>>(work);
        else
            Conv2dLayer::forward<L>(work);
    }

    template <class L>
    static __device__ __forceinline__ void grad_input(const Work &work) {
        if constexpr (L::TensorInput::PASSES > 0)
            TensorProduct::multiply<L, GradInputProduct<L>>(work);
        else
            Conv2dLayer::grad_input<L>(work);
    }

    template <class L>
    static __device__ __forceinline__ void grad_parameters(const Work &work) {
        if constexpr (L::TensorWeight::PASSES > 0)
            TensorGradWeight::sum<L>(work);
        else
            Conv2dLayer::grad_parameters<L>(work);
    }
};
