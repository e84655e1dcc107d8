// Inputs of the ops that multiply with the weights of chosen experts: x [tokens, slots, K], index [tokens, chosen].
#pragma once

#include <optional>
#include <string>

#include "kernels/common/thread_team.h"
#include "kernels/expert_matmul.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

enum ExpertInput : std::size_t { kExpertX, kExpertIndex, kExpertWeight };

// The number of experts, the first dimension of the weight at an input.
inline std::size_t expert_count(const OrtKernelInfo* info, std::size_t input = kExpertWeight) {
  const Tensor weight = constant_tensor(info, input);
  if (!weight || weight.shape.empty() || weight.shape[0] <= 0) fail("weights must be constant, of one expert or more");
  return static_cast<std::size_t>(weight.shape[0]);
}

// The experts of each token. Throws for an index that is no expert.
inline const std::int64_t* expert_indices(const Tensor& index, std::size_t experts) {
  const auto* const values = static_cast<const std::int64_t*>(index.data);
  for (std::size_t i = 0; i < element_count(index.shape); ++i)
    if (values[i] < 0 || static_cast<std::size_t>(values[i]) >= experts)
      fail("index " + std::to_string(values[i]) + " is no expert: there are " + std::to_string(experts));
  return values;
}

// The arguments of a call, with the output's memory. Throws for shapes that do not fit, and for an index that is no
// expert.
inline ExpertMatMulArgs expert_args(OrtKernelContext* context, std::size_t experts, std::size_t k, std::size_t n) {
  const Tensor x = input(context, kExpertX), index = input(context, kExpertIndex);
  if (x.shape.size() != 3 || x.shape[2] != static_cast<std::int64_t>(k)) fail("x is not [tokens, slots, K]");
  if (index.shape.size() != 2 || index.shape[0] != x.shape[0]) fail("index is not [tokens, experts of a token]");
  if (x.shape[1] != 1 && x.shape[1] != index.shape[1])
    fail("x has neither one slot nor one for each expert of a token");
  ExpertMatMulArgs args{};
  args.tokens = static_cast<std::size_t>(index.shape[0]);
  args.chosen = static_cast<std::size_t>(index.shape[1]);
  args.experts = experts;
  args.k = k;
  args.n = n;
  args.shared = x.shape[1] == 1;
  args.x = x.floats();
  args.index = expert_indices(index, experts);
  const std::int64_t shape[] = {index.shape[0], index.shape[1], static_cast<std::int64_t>(n)};
  args.out = static_cast<float*>(output(context, 0, shape));
  return args;
}

// Runs run(threads, memory, gemm_memory) on a thread team.
template <typename Run>
void run_with_scratch(OrtKernelContext* context, const Run& run) {
  // Bound here: the region may run on another thread, whose thread_local it must not use.
  thread_local Scratch own_memory, own_gemm_memory;
  Scratch &memory = own_memory, &gemm_memory = own_gemm_memory;
  run_team({run_parallel, context}, [&](const Parallel& threads) { run(threads, memory, gemm_memory); });
}

template <typename Format>
void run_expert_matmul(OrtKernelContext* context, const Format& format, const ExpertMatMulArgs& args) {
  run_with_scratch(context, [&](const Parallel& threads, Scratch& memory, Scratch& gemm_memory) {
    expert_matmul(kernels(), format, args, threads, memory, gemm_memory);
  });
}

}  // namespace edgekiln::ort
