// The weight formats of post-attention blocks, and how a block reads its constants from a node.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>

#include "kernels/decoder_block.h"
#include "ort_ops/constant_weights.h"
#include "ort_ops/op_name.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

// A format: what names of its ops begin with, the weight type of the kernels, the types of a weight's inputs, and
// load(). This is the base of those with codes of n bits.
template <WeightScheme kScheme>
struct NBits {
  using Weight = NBitsWeight;
  static Weight load(const WeightPacker& packer, std::size_t first, std::size_t k, std::size_t n) {
    return {packer.pack(constant_nbits_weight(packer.info(), first, k, n, kScheme))};
  }
};

struct GroupBias : NBits<WeightScheme::kGroupBias> {
  static constexpr std::string_view kPrefix = "GroupBias";
  enum WeightInput : std::size_t { kCodes, kScales, kBias };
  static constexpr std::array kWeightTypes{kUint8, kFloat, kFloat};
};

struct ZeroPoint : NBits<WeightScheme::kZeroPoints> {
  static constexpr std::string_view kPrefix = "ZeroPoint";
  enum WeightInput : std::size_t { kCodes, kScales, kZeroPoints };
  static constexpr std::array kWeightTypes{kUint8, kFloat, kUint8};
};

struct Symmetric : NBits<WeightScheme::kSymmetric> {
  static constexpr std::string_view kPrefix = "Symmetric";
  enum WeightInput : std::size_t { kCodes, kScales };
  static constexpr std::array kWeightTypes{kUint8, kFloat};
};

struct Codebook : NBits<WeightScheme::kCodebook> {
  static constexpr std::string_view kPrefix = "Codebook";
  enum WeightInput : std::size_t { kCodes, kScales, kCodebook };
  static constexpr std::array kWeightTypes{kUint8, kFloat, kInt8};
};

struct PerTokenInt8 {
  static constexpr std::string_view kPrefix = "PerTokenInt8";
  using Weight = PerTokenInt8Weight;
  enum WeightInput : std::size_t { kCodes, kScales };
  static constexpr std::array kWeightTypes{kInt8, kFloat};
  static Weight load(const WeightPacker& packer, std::size_t first, std::size_t k, std::size_t n) {
    return {packer.pack_int8(first, k, n)};
  }
};

// What names of ops have after the prefix of a format.
inline constexpr std::string_view kPostAttention = "PostAttention", kDecoderLayers = "DecoderLayers",
                                  kInt8Cache = "Int8Cache";

inline DecoderWidths decoder_widths(const OrtKernelInfo* info) {
  const auto width = [&](const char* name) { return static_cast<std::size_t>(integer(info, name)); };
  return {width("attended"), width("hidden"), width("intermediate"), width("projected")};
}

// The constant inputs of one block, counted from the first of them: two norms, then the inputs of four weights.
template <typename Format>
struct PostAttentionConstants {
  using Block = PostAttentionBlock<typename Format::Weight>;
  static constexpr std::size_t kWeightInputs = Format::kWeightTypes.size();
  enum Input : std::size_t {
    kGamma,
    kNextGamma,
    kOutputWeight,
    kGateUpWeight = kOutputWeight + kWeightInputs,
    kDownWeight = kGateUpWeight + kWeightInputs,
    kNextWeight = kDownWeight + kWeightInputs
  };
  static constexpr std::size_t kCount = kNextWeight + kWeightInputs, kOptional = 0;
  static constexpr const char* kPostAttentionName = kJoined<Format::kPrefix, kPostAttention>.data();
  static constexpr const char* kDecoderLayersName = kJoined<Format::kPrefix, kDecoderLayers>.data();
  static constexpr const char* kInt8CacheName = kJoined<Format::kPrefix, kDecoderLayers, kInt8Cache>.data();
  static constexpr auto kTypes = [] {
    std::array<ONNXTensorElementDataType, kCount> types{};
    types.fill(kFloat);
    for (std::size_t i = kOutputWeight; i < kCount; ++i)
      types[i] = Format::kWeightTypes[(i - kOutputWeight) % kWeightInputs];
    return types;
  }();

  // How many constants each block of a node has.
  static std::size_t count(const OrtKernelInfo*) { return kCount; }

  // The block whose constants begin at input `first`; widths and epsilons are attributes of the node.
  static Block load(const WeightPacker& packer, std::size_t first) {
    const OrtKernelInfo* const info = packer.info();
    const DecoderWidths widths = decoder_widths(info);
    const auto* gamma = constant_input<float>(info, first + kGamma, widths.hidden);
    const auto* next_gamma = constant_input<float>(info, first + kNextGamma, widths.hidden);
    if (!gamma || !next_gamma) fail("norms must be constant");
    return {widths,
            real(info, "epsilon"),
            real(info, "next_epsilon"),
            gamma,
            next_gamma,
            Format::load(packer, first + kOutputWeight, widths.attended, widths.hidden),
            Format::load(packer, first + kGateUpWeight, widths.hidden, 2 * widths.intermediate),
            Format::load(packer, first + kDownWeight, widths.intermediate, widths.hidden),
            Format::load(packer, first + kNextWeight, widths.hidden, widths.projected)};
  }
};

}  // namespace edgekiln::ort
