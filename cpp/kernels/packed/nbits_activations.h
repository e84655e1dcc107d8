// The arguments of the n-bit GEMMs with int8 activations, quantized in blocks of 32 values of k with one scale each.
//
// A step is the values of k whose dot products are integers: a block, or with groups of 16 half of one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/packed/codebook.h"
#include "kernels/packed/packed_gemm.h"
#include "kernels/vector/for_each_row.h"

namespace edgekiln::EDGEKILN_ISA {

// Activation codes are in the order of the weight's: for 4 bits the even and then the odd ones of each eight.
struct NBitsGemmArgs {
  const PackedNBits& weight;
  const float* a;
  std::size_t m, groups;
  float* out;
  std::int8_t* codes;          // [m, k]
  std::int32_t* compensation;  // [steps, m], as NBitsDot::compensation()
  float* scales;               // [steps, m], of the activations
  float* sums;                 // [groups, m], of the activations; of the quantized ones if codes are relative to those
};

// Without the quantized activations, for which it allocates memory.
inline NBitsGemmArgs nbits_gemm_args(const PackedNBits& weight, const float* a, std::size_t m, float* out,
                                     Scratch& scratch) {
  const std::size_t steps = weight.k / std::min(kBlock, weight.group_size), groups = weight.groups();
  float* memory = at_least(scratch, m * (weight.k / sizeof(float) + 2 * steps + groups));
  float* scales = memory + m * weight.k / sizeof(float);
  float* sums = scales + m * steps;
  return {
      .weight = weight,
      .a = a,
      .m = m,
      .groups = groups,
      .out = out,
      .codes = reinterpret_cast<std::int8_t*>(memory),
      .compensation = reinterpret_cast<std::int32_t*>(sums + m * groups),
      .scales = scales,
      .sums = sums,
  };
}

namespace detail {

template <std::size_t Step>
inline float sum_of(const float* step) {
  Floats x[Step / kLanes];
  for (std::size_t i = 0; i < Step / kLanes; ++i) x[i] = load(step + i * kLanes);
  for (std::size_t count = Step / kLanes; count /= 2;)
    for (std::size_t i = 0; i < count; ++i) x[i] += x[i + count];
  return sum_of_lanes(x[0]);
}

// Of the codes of a step of `block`.
template <std::size_t Step>
inline std::int32_t sum_of_codes(const QuantizedBlock& block, std::size_t step) {
  if constexpr (Step == kBlock) return block.sum;
  std::int32_t sum = 0;
  for (std::size_t i = 0; i < Step; ++i) sum += block.codes[step * Step + i];
  return sum;
}

}  // namespace detail

// Quantizes a token's activations a[k]. Calls put(step, codes, compensation, scale, sum) for each step, with the codes
// of its block and the sum of the group so far: of the activations, or of the quantized ones if the weight's codes are
// relative to those.
template <int Bits, std::size_t Step = kBlock, typename Put>
void quantize_blocks(const PackedNBits& weight, const float* a, const Put& put) {
  const bool zero_points = weight.scheme == WeightScheme::kZeroPoints;
  const bool quantized_sums = zero_points || weight.code_offset != 0.0f;
  float sum = 0.0f;
  for (std::size_t block = 0; block < weight.k / kBlock; ++block, a += kBlock) {
    const QuantizedBlock quantized = quantize_block(a);
    const BlockCodes codes = stored_bits(Bits) == 4 ? even_then_odd(quantized.codes) : quantized.codes;
    for (std::size_t i = 0; i < kBlock / Step; ++i) {
      const std::size_t step = block * (kBlock / Step) + i;
      const std::int32_t codes_sum = detail::sum_of_codes<Step>(quantized, i);
      if (step * Step % weight.group_size == 0) sum = 0.0f;
      // std::fma, as whether the compiler contracts the expression depends on how it inlines this function.
      if (quantized_sums) {
        sum = std::fma(quantized.scale, static_cast<float>(codes_sum), sum);
      } else {
        sum += detail::sum_of<Step>(a + i * Step);
      }
      const std::int32_t compensation = NBitsDot<multiplied_bits(Bits)>::compensation(codes, codes_sum, zero_points);
      put(step, codes, compensation, quantized.scale, sum);
    }
  }
}

template <int Bits, std::size_t Step>
void quantize_tokens(const NBitsGemmArgs& args, const Parallel& parallel) {
  const PackedNBits& weight = args.weight;
  const std::size_t m = args.m, k = weight.k;
  for_each_row(m, k, parallel, [&](std::size_t token) {
    const auto put = [&](std::size_t step, BlockCodes codes, std::int32_t compensation, float scale, float sum) {
      const std::size_t first = step * Step;
      if (first % kBlock == 0) std::memcpy(args.codes + token * k + first, &codes, sizeof codes);
      args.compensation[step * m + token] = compensation;
      args.scales[step * m + token] = scale;
      args.sums[first / weight.group_size * m + token] = sum;
    };
    quantize_blocks<Bits, Step>(weight, args.a + token * k, put);
  });
}

}  // namespace edgekiln::EDGEKILN_ISA
