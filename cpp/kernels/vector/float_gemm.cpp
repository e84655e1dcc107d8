// GEMM with a float weight in rows of k, for experts that are not quantized. For every instruction set.
//
// Slabs of the weight are transposed into the L1 cache and multiplied there, in the order of k for every m.
#include "kernels/isa_kernels.h"
#include "kernels/vector/dequantized_gemm.h"
#include "kernels/vector/transpose.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

struct FloatGemm {
  const float* w;
  std::size_t k, n;
  const float* a;
  std::size_t m;
  float* out;
};

void slab_task(void* context, std::size_t index) {
  const FloatGemm& args = *static_cast<const FloatGemm*>(context);
  const auto fill = [&](std::size_t first, std::size_t count, std::size_t first_k, std::size_t count_k, float* to) {
    const float* const from = args.w + first * args.k + first_k;
    std::size_t column = 0;
    for (; column + kLanes <= count; column += kLanes) {
      std::size_t k = 0;
      for (; k + kLanes <= count_k; k += kLanes)
        transpose_square(from + column * args.k + k, args.k, to + k * kFloatColumns + column, kFloatColumns);
      for (; k < count_k; ++k)
        for (std::size_t i = column; i < column + kLanes; ++i) to[k * kFloatColumns + i] = from[i * args.k + k];
    }
    const std::size_t end = (count + kLanes - 1) / kLanes * kLanes;
    for (; column < end; ++column)
      for (std::size_t k = 0; k < count_k; ++k)
        to[k * kFloatColumns + column] = column < count ? from[column * args.k + k] : 0.0f;
  };
  dequantized_gemm(args.a, args.m, args.k, args.n, index * kFloatColumns, args.out, fill);
}

}  // namespace

void float_gemm(const float* w, std::size_t k, std::size_t n, const float* a, std::size_t m, float* out,
                const Parallel& parallel) {
  FloatGemm args{w, k, n, a, m, out};
  parallel.run(parallel.self, slab_task, (n + kFloatColumns - 1) / kFloatColumns, &args);
}

}  // namespace edgekiln::EDGEKILN_ISA
