// edgekiln.ort::{LinearAttention,Mamba2Scan,GatedDeltaRule}: linear attention with a state for each head.
#pragma once

#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include "kernels/kernel_table.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

// The tensors that the three ops have: query and key [batch, length, key heads, key dim], value [batch, length, heads,
// value dim], past [batch, heads, key dim, value dim].
inline LinearAttentionArgs linear_attention_args(OrtKernelContext* context, const Tensor& query, const Tensor& key,
                                                 const Tensor& value, const Tensor& past) {
  const auto size = [](std::int64_t dim) { return static_cast<std::size_t>(dim); };
  if (value.shape.size() != 4 || key.shape.size() != 4 || query.shape != key.shape) fail("heads need an axis");
  LinearAttentionArgs args{};
  args.batch = size(value.shape[0]);
  args.length = size(value.shape[1]);
  args.heads = size(value.shape[2]);
  args.value_dim = size(value.shape[3]);
  args.key_heads = size(key.shape[2]);
  args.key_dim = size(key.shape[3]);
  if (!args.batch || !args.length || !args.heads || !args.value_dim) fail("linear attention needs a token and a head");
  if (!args.key_heads || args.heads % args.key_heads) fail("the heads of keys must divide those of values");
  if (args.key_dim > kMaxLinearAttentionKeyDim) fail("keys are wider than the kernel takes");
  if (key.shape[0] != value.shape[0] || key.shape[1] != value.shape[1]) fail("keys and values differ in length");
  if (past.shape != std::vector{value.shape[0], value.shape[2], key.shape[3], value.shape[3]})
    fail("the past has another shape");
  args.query = query.floats();
  args.key = key.floats();
  args.value = value.floats();
  args.past = past.floats();
  args.out = static_cast<float*>(output(context, 0, value.shape));
  args.present = static_cast<float*>(output(context, 1, past.shape));
  return args;
}

// Engines define functions under these names, which run where the kernel is not registered.
class LinearAttention {
 public:
  enum Input : std::size_t { kQuery, kKey, kValue, kPast, kDecay, kBeta };
  static constexpr const char* kName = "LinearAttention";
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kFloat, kFloat, kFloat, kFloat, kFloat};
  static constexpr std::size_t kOptional[] = {kDecay, kBeta};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat, kFloat};
  static constexpr Signature kSignature{kInputs, kOptional, kOutputs};

  explicit LinearAttention(const OrtKernelInfo* info)
      : delta_(text(info, "update_rule").ends_with("delta")), scale_(real(info, "scale")) {}

  void compute(OrtKernelContext* context) const {
    LinearAttentionArgs args = linear_attention_args(context, input(context, kQuery), input(context, kKey),
                                                     input(context, kValue), input(context, kPast));
    const std::size_t factors = args.batch * args.length * args.heads;
    if (const Tensor decay = input(context, kDecay)) {
      args.decay_by_row = element_count(decay.shape) != factors;
      args.decay = floats_of(decay, args.decay_by_row ? factors * args.key_dim : factors);
    }
    if (const Tensor beta = input(context, kBeta)) {
      args.factor = UpdateFactor::kBeta;
      args.beta = floats_of(beta, factors);
    }
    args.delta = delta_;
    args.scale = scale_;
    kernels().linear_attention(args, {run_parallel, context});
  }

 private:
  bool delta_;
  float scale_;
};

// Inputs beside those of linear_attention_args(): dt [batch, length, heads], a, d and dt_bias [heads].
class Mamba2Scan {
 public:
  enum Input : std::size_t { kX, kDt, kA, kB, kC, kD, kDtBias, kPast };
  static constexpr const char* kName = "Mamba2Scan";
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kFloat, kFloat, kFloat,
                                                          kFloat, kFloat, kFloat, kFloat};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat, kFloat};
  static constexpr Signature kSignature{kInputs, {}, kOutputs};

  explicit Mamba2Scan(const OrtKernelInfo* info)
      : least_step_(real(info, "least_step")), most_step_(real(info, "most_step")) {}

  void compute(OrtKernelContext* context) const {
    LinearAttentionArgs args = linear_attention_args(context, input(context, kC), input(context, kB),
                                                     input(context, kX), input(context, kPast));
    args.decay = floats_of(input(context, kDt), args.batch * args.length * args.heads);
    args.a = floats_of(input(context, kA), args.heads);
    args.dt_bias = floats_of(input(context, kDtBias), args.heads);
    args.skip = floats_of(input(context, kD), args.heads);
    args.least_step = least_step_;
    args.most_step = most_step_;
    args.factor = UpdateFactor::kStep;
    kernels().linear_attention(args, {run_parallel, context});
  }

 private:
  float least_step_, most_step_;
};

// Inputs beside those of linear_attention_args(): dt and beta [batch, length, heads], before softplus and sigmoid; a
// and dt_bias [heads].
class GatedDeltaRule {
 public:
  enum Input : std::size_t { kQuery, kKey, kValue, kDt, kBeta, kA, kDtBias, kPast };
  static constexpr const char* kName = "GatedDeltaRule";
  static constexpr Signature kSignature = Mamba2Scan::kSignature;

  explicit GatedDeltaRule(const OrtKernelInfo* info) : scale_(real(info, "scale")), epsilon_(real(info, "epsilon")) {}

  void compute(OrtKernelContext* context) const {
    LinearAttentionArgs args = linear_attention_args(context, input(context, kQuery), input(context, kKey),
                                                     input(context, kValue), input(context, kPast));
    const std::size_t factors = args.batch * args.length * args.heads;
    args.decay = floats_of(input(context, kDt), factors);
    args.beta = floats_of(input(context, kBeta), factors);
    args.a = floats_of(input(context, kA), args.heads);
    args.dt_bias = floats_of(input(context, kDtBias), args.heads);
    args.most_step = std::numeric_limits<float>::infinity();
    args.factor = UpdateFactor::kSigmoid;
    args.delta = true;
    args.scale = scale_;
    args.norm_epsilon = epsilon_;
    kernels().linear_attention(args, {run_parallel, context});
  }

 private:
  float scale_, epsilon_;
};

}  // namespace edgekiln::ort
