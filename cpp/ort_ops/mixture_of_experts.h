// edgekiln.ort::{scheme}{scheme}MixtureOfExperts: both projections of chosen experts, SwiGLU between them, and the
// weighted sum. See mixture_of_experts().
#pragma once

#include <algorithm>
#include <array>
#include <string_view>

#include "kernels/mixture_of_experts.h"
#include "ort_ops/constant_weights.h"
#include "ort_ops/expert_inputs.h"

namespace edgekiln::ort {

// The schemes of weights of 4 or 8 bits: what names of ops have for one, and the types of its inputs.
template <WeightScheme kScheme>
struct NBitsExpertWeights {
  static constexpr std::string_view kPrefix = kScheme == WeightScheme::kSymmetric    ? "Symmetric"
                                              : kScheme == WeightScheme::kZeroPoints ? "ZeroPoint"
                                                                                     : "GroupBias";
  static constexpr std::size_t kCount = kScheme == WeightScheme::kSymmetric ? 2 : 3;
  static constexpr std::array<ONNXTensorElementDataType, 3> kTypes{
      kUint8, kFloat, kScheme == WeightScheme::kZeroPoints ? kUint8 : kFloat};

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

// Engines define a function under this name, which runs where the kernel is not registered.
template <typename GateUp, typename Down>
class MixtureOfExperts {
 public:
  enum Input : std::size_t { kX, kIndex, kGates, kGateUp, kDown = kGateUp + GateUp::kCount };
  static constexpr auto kNameBytes = [] {
    constexpr std::string_view kParts[] = {GateUp::kPrefix, Down::kPrefix, "MixtureOfExperts"};
    std::array<char, kParts[0].size() + kParts[1].size() + kParts[2].size() + 1> name{};
    auto to = name.begin();
    for (const std::string_view part : kParts) to = std::copy(part.begin(), part.end(), to);
    return name;
  }();
  static constexpr const char* kName = kNameBytes.data();
  static constexpr auto kInputs = [] {
    std::array<ONNXTensorElementDataType, kDown + Down::kCount> types{kFloat, kInt64, kFloat};
    std::copy_n(GateUp::kTypes.begin(), GateUp::kCount, types.begin() + kGateUp);
    std::copy_n(Down::kTypes.begin(), Down::kCount, types.begin() + kDown);
    return types;
  }();
  static constexpr std::array kOutputs{kFloat};
  static constexpr Signature kSignature{kInputs, {}, kOutputs};

  explicit MixtureOfExperts(const OrtKernelInfo* info)
      : experts_(expert_count(info, kGateUp)),
        hidden_(integer(info, "hidden")),
        inner_(integer(info, "intermediate")),
        gate_up_(GateUp::load(WeightPacker(info), kGateUp, experts_, hidden_, 2 * inner_, "gate_up_")),
        down_(Down::load(WeightPacker(info), kDown, experts_, inner_, hidden_, "down_")) {}

  void compute(OrtKernelContext* context) const {
    const Tensor x = input(context, kX), index = input(context, kIndex), gates = input(context, kGates);
    if (index.shape.size() != 2) fail("index is not [tokens, experts of a token]");
    MixtureArgs args{};
    args.tokens = static_cast<std::size_t>(index.shape[0]);
    args.chosen = static_cast<std::size_t>(index.shape[1]);
    args.experts = experts_;
    args.hidden = hidden_;
    args.intermediate = inner_;
    args.x = floats_of(x, args.tokens * hidden_);
    args.gates = floats_of(gates, args.tokens * args.chosen);
    args.index = expert_indices(index, experts_);
    const std::int64_t shape[] = {index.shape[0], static_cast<std::int64_t>(hidden_)};
    args.out = static_cast<float*>(output(context, 0, shape));
    const typename GateUp::Format gate_up{gate_up_};
    const typename Down::Format down{down_};
    run_with_scratch(context, [&](const Parallel& threads, Scratch& memory, Scratch& gemm_memory) {
      mixture_of_experts(kernels(), gate_up, down, args, threads, memory, gemm_memory);
    });
  }

 private:
  std::size_t experts_, hidden_, inner_;
  typename GateUp::Experts gate_up_;
  typename Down::Experts down_;
};

}  // namespace edgekiln::ort
