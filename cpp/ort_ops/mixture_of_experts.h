// edgekiln.ort::{scheme}MixtureOfExperts: both projections of chosen experts, SwiGLU between them, and the weighted
// sum.
#pragma once

#include <optional>

#include "kernels/mixture_of_experts.h"
#include "ort_ops/constant_weights.h"
#include "ort_ops/expert_inputs.h"

namespace edgekiln::ort {

// Engines define a function under this name, which runs where the kernel is not registered.
class ZeroPointMixtureOfExperts {
 public:
  static constexpr const char* kName = "ZeroPointMixtureOfExperts";
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kInt64, kFloat, kUint8, kFloat,
                                                          kUint8, kUint8, kFloat, kUint8};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat};
  static constexpr Signature kSignature{kInputs, {}, kOutputs};

  explicit ZeroPointMixtureOfExperts(const OrtKernelInfo* info) {
    const Tensor weight = constant_tensor(info, 3);
    experts_ = static_cast<std::size_t>(weight.shape[0]);
    hidden_ = integer(info, "hidden");
    inner_ = integer(info, "intermediate");
    const WeightPacker packer(info);
    const auto pack = [&](std::size_t first, std::size_t k, std::size_t n) {
      const MatMulNBitsArgs args = constant_nbits_weight(info, first, k, experts_ * n, WeightScheme::kZeroPoints);
      return NBitsExperts(args, experts_, packer.experts_place(args, experts_));
    };
    gate_up_.emplace(pack(3, hidden_, 2 * inner_));
    down_.emplace(pack(6, inner_, hidden_));
  }

  void compute(OrtKernelContext* context) const {
    const Tensor x = input(context, 0), index = input(context, 1), gates = input(context, 2);
    MixtureArgs args{};
    args.tokens = static_cast<std::size_t>(index.shape[0]);
    args.chosen = static_cast<std::size_t>(index.shape[1]);
    args.experts = experts_;
    args.hidden = hidden_;
    args.intermediate = inner_;
    args.x = x.floats();
    args.index = static_cast<const std::int64_t*>(index.data);
    args.gates = gates.floats();
    const std::int64_t shape[] = {index.shape[0], static_cast<std::int64_t>(hidden_)};
    args.out = static_cast<float*>(output(context, 0, shape));
    thread_local Scratch own_memory, own_gemm_memory;
    Scratch &memory = own_memory, &gemm_memory = own_gemm_memory;
    run_team({run_parallel, context}, [&](const Parallel& threads) {
      mixture_of_experts(kernels(), NBitsExpertFormat{*gate_up_}, NBitsExpertFormat{*down_}, args, threads, memory,
                         gemm_memory);
    });
  }

 private:
  std::size_t experts_, hidden_, inner_;
  std::optional<NBitsExperts> gate_up_, down_;
};

}  // namespace edgekiln::ort
