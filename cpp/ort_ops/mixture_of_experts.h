// edgekiln.ort::{scheme}{scheme}MixtureOfExperts: both projections of chosen experts, SwiGLU between them, and the
// weighted sum. See mixture_of_experts().
#pragma once

#include <algorithm>
#include <array>
#include <string_view>

#include "kernels/mixture_of_experts.h"
#include "ort_ops/expert_inputs.h"
#include "ort_ops/expert_weights.h"
#include "ort_ops/op_name.h"

namespace edgekiln::ort {

inline constexpr std::string_view kMixtureOfExperts = "MixtureOfExperts";

// Engines define a function under this name, which runs where the kernel is not registered.
template <typename GateUp, typename Down>
class MixtureOfExperts {
 public:
  enum Input : std::size_t { kX, kIndex, kGates, kGateUp, kDown = kGateUp + GateUp::kCount };
  static constexpr const char* kName = kJoined<GateUp::kPrefix, Down::kPrefix, kMixtureOfExperts>.data();
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
