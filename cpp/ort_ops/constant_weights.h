// Weights of matrix multiplications that are initializers of the graph: validated, packed, and dropped from memory.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/common/mapped_file.h"
#include "kernels/kernel_table.h"
#include "kernels/pack/float16_group_params.h"
#include "kernels/pack/pack_place.h"
#include "kernels/pack/packed_experts.h"
#include "kernels/pack/packed_int8.h"
#include "kernels/pack/packed_lm_head.h"
#include "kernels/pack/packed_nbits.h"
#include "kernels/pack/packed_weight_id.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

// The n-bit weight at input `first` (codes), followed by its scales and, depending on `scheme`, its zero points, group
// biases or codebook. `shape` has k, n, group_size and bits. Where one of these inputs is not an initializer, the
// result is `shape`.
inline MatMulNBitsArgs nbits_weight(const OrtKernelInfo* info, std::size_t first, const MatMulNBitsArgs& shape,
                                    WeightScheme scheme) {
  const std::size_t count = shape.n * shape.groups();
  if (shape.bits != 4 && shape.bits != 8) fail("bits must be 4 or 8");
  if (shape.group_size != 32 && shape.group_size != 64 && shape.group_size != 128 &&
      (shape.group_size != 16 || shape.bits != 8))
    fail("block_size must be 32, 64 or 128, or with 8 bits 16");
  if (!shape.k || !shape.n || shape.k % std::max<std::size_t>(shape.group_size, 32))
    fail("K must be a multiple of block_size, and of 32");
  if (scheme == WeightScheme::kCodebook && shape.bits != 4) fail("codes that index a codebook have 4 bits");
  MatMulNBitsArgs weight = shape;
  weight.codes = constant_input<std::uint8_t>(info, first, shape.n * shape.column_bytes());
  weight.scales = constant_input<float>(info, first + 1, count);
  if (scheme == WeightScheme::kGroupBias) weight.group_bias = constant_input<float>(info, first + 2, count);
  if (scheme == WeightScheme::kZeroPoints)
    weight.zero_points = constant_input<std::uint8_t>(info, first + 2, shape.n * shape.zero_point_bytes());
  if (scheme == WeightScheme::kCodebook) weight.codebook = constant_input<std::int8_t>(info, first + 2, kCodebookSize);
  const bool constant = weight.codes && weight.scales && (weight.group_bias || scheme != WeightScheme::kGroupBias) &&
                        (weight.zero_points || scheme != WeightScheme::kZeroPoints) &&
                        (weight.codebook || scheme != WeightScheme::kCodebook);
  return constant ? weight : shape;
}

// The same for ops that require constant weights, with bits and block_size from the node's attributes, whose names
// begin with `prefix`. Throws where an input is not an initializer.
inline MatMulNBitsArgs constant_nbits_weight(const OrtKernelInfo* info, std::size_t first, std::size_t k, std::size_t n,
                                             WeightScheme scheme, const std::string& prefix = "") {
  MatMulNBitsArgs shape{};
  shape.k = k;
  shape.n = n;
  shape.group_size = integer(info, (prefix + "block_size").c_str());
  shape.bits = static_cast<int>(integer(info, (prefix + "bits").c_str()));
  const MatMulNBitsArgs weight = nbits_weight(info, first, shape, scheme);
  if (!weight.codes) fail("weights must be constant");
  return weight;
}

inline Float16GroupParams float16_group_params(const MatMulNBitsArgs& weight) {
  return {weight.scales, weight.group_bias, weight.n * weight.groups(), weight.midpoint()};
}

// Packs the constant weights of a node, or finds them in the session's pack cache, and drops the originals' pages.
class WeightPacker {
 public:
  explicit WeightPacker(const OrtKernelInfo* info) : info_(info) {
    PackCacheOptions options;
    options.path = session_entry(info, "edgekiln.pack_cache");
    if (options.path.empty()) return;
    options.weights = session_entry(info, "edgekiln.pack_cache.weights");
    options.key = session_entry(info, "edgekiln.pack_cache.key");
    const std::string use = session_entry(info, "edgekiln.pack_cache.use");
    if (use == "write") options.use = PackCacheUse::kWrite;
    if (use == "temporary") options.use = PackCacheUse::kTemporary;
    cache_ = PackCache::open(options);
    mappings_.emplace(options.weights);
  }

  const OrtKernelInfo* info() const { return info_; }

  PackedNBits pack(MatMulNBitsArgs weight) const {
    const PackPlace place = nbits_place("nbits", weight);
    if (auto found = find_packed_nbits(weight, place)) return *std::move(found);
    const Float16GroupParams params = float16_group_params(weight);
    weight.float16_scales = params.scales();
    weight.float16_min = params.mins();
    PackedNBits packed = pack_nbits(weight, place);
    drop(weight);
    return packed;
  }

  // Nullopt where the weight cannot be split, see pack_lm_head().
  std::optional<PackedLmHead> pack_head(const MatMulNBitsArgs& weight, float margin) const {
    const PackPlace place = nbits_place("lm_head", weight);
    if (auto found = find_packed_lm_head(weight, margin, place)) return found;
    std::optional<PackedLmHead> packed = pack_lm_head(weight, margin, place);
    if (packed) drop(weight);
    return packed;
  }

  // The int8 weight [k, n] at input `first`, followed by its scales [n].
  PackedInt8 pack_int8(std::size_t first, std::size_t k, std::size_t n) const {
    const auto* codes = constant_input<std::int8_t>(info_, first, k * n);
    const auto* scales = constant_input<float>(info_, first + 1, n);
    if (!codes || !scales || !k || !n) fail("weights and scales must be constant");
    const WeightInput inputs[] = {{codes, k * n}, {scales, n * sizeof(float)}};
    const Int8Order order = kernels().int8_order;
    const char* const layout = order == Int8Order::kFours ? "int8" : "int8 eights";
    PackedInt8 packed(codes, scales, k, n, order, place(layout_name(layout, {k, n}), inputs));
    drop_mapped_pages(codes, k * n);
    return packed;
  }

  // Where the experts of a weight are, whose columns follow each other.
  PackPlace experts_place(const MatMulNBitsArgs& weight, std::size_t count) const {
    return nbits_place(layout_name("nbits experts", {count}).c_str(), weight);
  }

  // The int8 weights [count, k, n] at input `first`, followed by their scales [count, n].
  Int8Experts pack_int8_experts(std::size_t first, std::size_t count, std::size_t k, std::size_t n) const {
    const auto* codes = constant_input<std::int8_t>(info_, first, count * k * n);
    const auto* scales = constant_input<float>(info_, first + 1, count * n);
    if (!codes || !scales || !k || !n) fail("weights and scales must be constant");
    const WeightInput inputs[] = {{codes, count * k * n}, {scales, count * n * sizeof(float)}};
    const Int8Order order = kernels().int8_order;
    const char* const layout = order == Int8Order::kFours ? "int8 experts" : "int8 experts eights";
    return {codes, scales, count, k, n, order, place(layout_name(layout, {count, k, n}), inputs)};
  }

 private:
  static void drop(const MatMulNBitsArgs& weight) {
    const std::size_t group_bytes = weight.n * weight.groups() * sizeof(float);
    drop_mapped_pages(weight.codes, weight.n * weight.column_bytes());
    drop_mapped_pages(weight.scales, group_bytes);
    if (weight.group_bias) drop_mapped_pages(weight.group_bias, group_bytes);
  }

  PackPlace place(const std::string& layout, std::span<const WeightInput> inputs) const {
    if (!cache_) return {};
    const std::optional<PackedWeightId> id = packed_weight_id(layout, inputs, *mappings_);
    return id ? PackPlace{cache_, *id} : PackPlace{};
  }

  // GCC 12 warns of operator+ of a literal and std::to_string.
  static std::string layout_name(const char* layout, std::initializer_list<std::size_t> sizes) {
    std::string name = layout;
    for (const std::size_t size : sizes) name.append(1, ' ').append(std::to_string(size));
    return name;
  }

  PackPlace nbits_place(const char* layout, const MatMulNBitsArgs& weight) const {
    const std::size_t group_bytes = weight.n * weight.groups() * sizeof(float);
    std::vector<WeightInput> inputs{{weight.codes, weight.n * weight.column_bytes()},
                                    {weight.scales, group_bytes},
                                    {weight.zero_points, weight.n * weight.zero_point_bytes()},
                                    {weight.group_bias, group_bytes}};
    if (weight.codebook) inputs.push_back({weight.codebook, kCodebookSize});
    const std::size_t bits = static_cast<std::size_t>(weight.bits);
    return place(layout_name(layout, {weight.k, weight.n, weight.group_size, bits}), inputs);
  }

  const OrtKernelInfo* info_;
  std::shared_ptr<PackCache> cache_;      // null for none
  std::optional<FileMappings> mappings_;  // of the weights file, while the node is created
};

}  // namespace edgekiln::ort
