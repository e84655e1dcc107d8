// Weights of matrix multiplications that are initializers of the graph: validated, packed, and dropped from memory.
#pragma once

#include "kernels/common/mapped_file.h"
#include "kernels/kernel_table.h"
#include "kernels/pack/float16_group_params.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

// The n-bit weight at input `first` (codes), followed by its scales and, depending on `scheme`, its zero points or
// group biases. `shape` has k, n, group_size and bits. Where one of these inputs is not an initializer, the result is
// `shape`.
inline MatMulNBitsArgs nbits_weight(const OrtKernelInfo* info, std::size_t first, const MatMulNBitsArgs& shape,
                                    WeightScheme scheme) {
  const std::size_t count = shape.n * shape.groups();
  if (shape.bits != 4 && shape.bits != 8) fail("bits must be 4 or 8");
  if (shape.group_size != 32 && shape.group_size != 64 && shape.group_size != 128)
    fail("block_size must be 32, 64 or 128");
  if (!shape.k || !shape.n || shape.k % shape.group_size) fail("K must be a multiple of block_size");
  MatMulNBitsArgs weight = shape;
  weight.codes = constant_input<std::uint8_t>(info, first, shape.n * shape.column_bytes());
  weight.scales = constant_input<float>(info, first + 1, count);
  if (scheme == WeightScheme::kGroupBias) weight.group_bias = constant_input<float>(info, first + 2, count);
  if (scheme == WeightScheme::kZeroPoints)
    weight.zero_points = constant_input<std::uint8_t>(info, first + 2, shape.n * shape.zero_point_bytes());
  const bool constant = weight.codes && weight.scales && (weight.group_bias || scheme != WeightScheme::kGroupBias) &&
                        (weight.zero_points || scheme != WeightScheme::kZeroPoints);
  return constant ? weight : shape;
}

// The same for ops that require constant weights, with bits and block_size from the node's attributes. Throws where an
// input is not an initializer.
inline MatMulNBitsArgs constant_nbits_weight(const OrtKernelInfo* info, std::size_t first, std::size_t k, std::size_t n,
                                             WeightScheme scheme) {
  MatMulNBitsArgs shape{};
  shape.k = k;
  shape.n = n;
  shape.group_size = integer(info, "block_size");
  shape.bits = static_cast<int>(integer(info, "bits"));
  const MatMulNBitsArgs weight = nbits_weight(info, first, shape, scheme);
  if (!weight.codes) fail("weights must be constant");
  return weight;
}

// Drops the pages of a weight that has been packed: the original is not read again.
inline void drop_weight(const MatMulNBitsArgs& weight) {
  const std::size_t group_bytes = weight.n * weight.groups() * sizeof(float);
  drop_mapped_pages(weight.codes, weight.n * weight.column_bytes());
  drop_mapped_pages(weight.scales, group_bytes);
  if (weight.group_bias) drop_mapped_pages(weight.group_bias, group_bytes);
}

inline Float16GroupParams float16_group_params(const MatMulNBitsArgs& weight) {
  return {weight.scales, weight.group_bias, weight.n * weight.groups(), weight.midpoint()};
}

// Packs a weight and drops the original's pages.
inline PackedNBits pack_and_drop(MatMulNBitsArgs weight, const Float16GroupParams& params) {
  weight.float16_scales = params.scales();
  weight.float16_min = params.mins();
  PackedNBits packed = pack_nbits(weight);
  drop_weight(weight);
  return packed;
}

// Packs the int8 weight [k, n] at input `first`, followed by its scales [n], and drops the original's pages.
inline PackedInt8 pack_int8_weight(const OrtKernelInfo* info, std::size_t first, std::size_t k, std::size_t n) {
  const auto* codes = constant_input<std::int8_t>(info, first, k * n);
  const auto* scales = constant_input<float>(info, first + 1, n);
  if (!codes || !scales || !k || !n) fail("weights and scales must be constant");
  PackedInt8 packed(codes, scales, k, n);
  drop_mapped_pages(codes, k * n);
  return packed;
}

}  // namespace edgekiln::ort
