// The schemes of the weights of a mixture's experts, and how an op reads them from a node.
#pragma once

#include <array>
#include <string_view>

#include "kernels/expert_matmul.h"
#include "ort_ops/constant_weights.h"

namespace edgekiln::ort {

// The schemes of weights of 4 or 8 bits: what names of ops have for one, and the types of its inputs.
template <WeightScheme kScheme>
struct NBitsExpertWeights {
  static constexpr std::string_view kPrefix = kScheme == WeightScheme::kSymmetric    ? "Symmetric"
                                              : kScheme == WeightScheme::kZeroPoints ? "ZeroPoint"
                                              : kScheme == WeightScheme::kCodebook   ? "Codebook"
                                                                                     : "GroupBias";
  static constexpr std::size_t kCount = kScheme == WeightScheme::kSymmetric ? 2 : 3;
  static constexpr std::array<ONNXTensorElementDataType, 3> kTypes{kUint8, kFloat,
                                                                   kScheme == WeightScheme::kZeroPoints ? kUint8
                                                                   : kScheme == WeightScheme::kCodebook ? kInt8
                                                                                                        : kFloat};

  using Experts = NBitsExperts;
  using Format = NBitsExpertFormat;

  // The weights at input `first`; names of their attributes begin with `prefix`.
  static Experts load(const WeightPacker& packer, std::size_t first, std::size_t experts, std::size_t k, std::size_t n,
                      const char* prefix) {
    const MatMulNBitsArgs weight = constant_nbits_weight(packer.info(), first, k, experts * n, kScheme, prefix);
    return {weight, experts, packer.experts_place(weight, experts)};
  }
};

using SymmetricExperts = NBitsExpertWeights<WeightScheme::kSymmetric>;
using ZeroPointExperts = NBitsExpertWeights<WeightScheme::kZeroPoints>;
using GroupBiasExperts = NBitsExpertWeights<WeightScheme::kGroupBias>;
using CodebookExperts = NBitsExpertWeights<WeightScheme::kCodebook>;

struct PerTokenInt8Experts {
  static constexpr std::string_view kPrefix = "PerTokenInt8";
  static constexpr std::size_t kCount = 2;
  static constexpr std::array<ONNXTensorElementDataType, 3> kTypes{kInt8, kFloat};

  using Experts = Int8Experts;
  using Format = PerTokenInt8ExpertFormat;

  static Experts load(const WeightPacker& packer, std::size_t first, std::size_t experts, std::size_t k, std::size_t n,
                      const char*) {
    return packer.pack_int8_experts(first, experts, k, n);
  }
};

}  // namespace edgekiln::ort
