// The arguments of the n-bit GEMMs with int8 activations, quantized in blocks of 32 values of k with one scale each.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels/packed/packed_gemm.h"
#include "kernels/vector/for_each_row.h"

namespace edgekiln::EDGEKILN_ISA {

// Activation codes are in the order of the weight's: for 4 bits the even and then the odd ones of each eight.
struct NBitsGemmArgs {
  const PackedNBits& weight;
  const float* a;
  std::size_t m, blocks, groups;
  float* out;
  std::int8_t* codes;          // [m, k]
  std::int32_t* compensation;  // [blocks, m], as NBitsDot::compensation()
  float* scales;               // [blocks, m]
  float* sums;                 // [groups, m], of the activations; of the quantized ones if codes are relative to those
};

// Without the quantized activations, for which it allocates memory.
inline NBitsGemmArgs nbits_gemm_args(const PackedNBits& weight, const float* a, std::size_t m, float* out,
                                     Scratch& scratch) {
  const std::size_t blocks = weight.k / kBlock, groups = weight.groups();
  float* memory = at_least(scratch, m * (weight.k / sizeof(float) + 2 * blocks + groups));
  float* scales = memory + m * weight.k / sizeof(float);
  float* sums = scales + m * blocks;
  return {
      .weight = weight,
      .a = a,
      .m = m,
      .blocks = blocks,
      .groups = groups,
      .out = out,
      .codes = reinterpret_cast<std::int8_t*>(memory),
      .compensation = reinterpret_cast<std::int32_t*>(sums + m * groups),
      .scales = scales,
      .sums = sums,
  };
}

namespace detail {

inline float sum_of(const float* block) {
  Floats x[kBlock / kLanes];
  for (std::size_t i = 0; i < kBlock / kLanes; ++i) x[i] = load(block + i * kLanes);
  for (std::size_t count = kBlock / kLanes; count /= 2;)
    for (std::size_t i = 0; i < count; ++i) x[i] += x[i + count];
  return sum_of_lanes(x[0]);
}

}  // namespace detail

// Quantizes a token's activations a[k]. Calls put(block, codes, compensation, scale, sum) for each block, with the sum
// of the group so far: of the activations, or of the quantized ones if the weight's codes are relative to those.
template <int Bits, typename Put>
void quantize_blocks(const PackedNBits& weight, const float* a, const Put& put) {
  const bool zero_points = weight.scheme == WeightScheme::kZeroPoints;
  const bool quantized_sums = zero_points || weight.code_offset != 0.0f;
  float sum = 0.0f;
  for (std::size_t block = 0; block < weight.k / kBlock; ++block, a += kBlock) {
    if (block * kBlock % weight.group_size == 0) sum = 0.0f;
    const QuantizedBlock quantized = quantize_block(a);
    const BlockCodes codes = Bits == 4 ? even_then_odd(quantized.codes) : quantized.codes;
    // std::fma, as whether the compiler contracts the expression depends on how it inlines this function.
    if (quantized_sums) {
      sum = std::fma(quantized.scale, static_cast<float>(quantized.sum), sum);
    } else {
      sum += detail::sum_of(a);
    }
    put(block, codes, NBitsDot<Bits>::compensation(codes, quantized.sum, zero_points), quantized.scale, sum);
  }
}

template <int Bits>
void quantize_tokens(const NBitsGemmArgs& args, const Parallel& parallel) {
  const PackedNBits& weight = args.weight;
  const std::size_t m = args.m, k = weight.k;
  for_each_row(m, k, parallel, [&](std::size_t token) {
    const auto put = [&](std::size_t block, BlockCodes codes, std::int32_t compensation, float scale, float sum) {
      std::memcpy(args.codes + token * k + block * kBlock, &codes, sizeof codes);
      args.compensation[block * m + token] = compensation;
      args.scales[block * m + token] = scale;
      args.sums[block * kBlock / weight.group_size * m + token] = sum;
    };
    quantize_blocks<Bits>(weight, args.a + token * k, put);
  });
}

}  // namespace edgekiln::EDGEKILN_ISA
