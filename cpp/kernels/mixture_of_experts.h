// A mixture of experts with SwiGLU as a sequence of kernels: both projections, the activation between them, and the sum
// over the experts of a token.
//
// Up to kGemvMaxM tokens, each projection is one parallel loop over all chosen experts. With more, experts follow each
// other, so that the activations of one stay in the cache between its kernels. Sums over the experts of a token are in
// the order of the experts.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/expert_matmul.h"

namespace edgekiln {

struct MixtureArgs {
  std::size_t tokens, chosen;  // chosen: experts a token
  std::size_t experts, hidden, intermediate;
  const float* x;             // [tokens, hidden]
  const std::int64_t* index;  // [tokens, chosen], each below `experts`
  const float* gates;         // [tokens, chosen]
  float* out;                 // [tokens, hidden]
};

// out = the sum over chosen experts of gate * (swiglu(x * W_gate_up) * W_down). The caller owns both scratches.
template <typename GateUp, typename Down>
void mixture_of_experts(const KernelTable& table, const GateUp& gate_up, const Down& down, const MixtureArgs& args,
                        const Parallel& parallel, Scratch& memory, Scratch& gemm_memory) {
  const std::size_t hidden = args.hidden, inner = args.intermediate;
  ExpertMatMulArgs first{args.tokens, args.chosen, args.experts, hidden, 2 * inner, true, args.x, args.index, nullptr};
  const ExpertGroups all(first);
  const std::vector<ExpertGroups::Group>& groups = all.groups();
  std::fill_n(args.out, args.tokens * hidden, 0.0f);
  if (groups.empty()) return;
  std::vector<WeightedRow> sums;
  const auto add = [&](const ExpertGroups::Group& group, const float* rows) {
    for (std::size_t i = 0; i < group.count; ++i) {
      const std::size_t pair = group.pairs[i];
      sums.push_back({rows + i * hidden, args.gates[pair], args.out + pair / args.chosen * hidden});
    }
  };
  const bool by_expert = args.tokens > kGemvMaxM;
  const std::size_t rows = by_expert ? all.most() : first.pairs();
  float* const gates = at_least(memory, rows * (3 * inner + 2 * hidden));
  float* const gated = gates + rows * 2 * inner;
  float* const results = gated + rows * inner;
  float* const x = results + rows * hidden;
  if (!by_expert) {
    first.out = gates;
    detail::multiply_slices(table, gate_up, first, groups, parallel);
    table.swiglu({rows, inner, gates, gated}, parallel);
    const ExpertMatMulArgs second{args.tokens, args.chosen, args.experts, inner,  hidden,
                                  false,       gated,       args.index,   results};
    detail::multiply_slices(table, down, second, groups, parallel);
    for (const ExpertGroups::Group& group : groups)
      for (std::size_t i = 0; i < group.count; ++i) {
        const std::size_t pair = group.pairs[i];
        sums.push_back({results + pair * hidden, args.gates[pair], args.out + pair / args.chosen * hidden});
      }
    return table.add_weighted_rows(sums.data(), sums.size(), hidden, parallel);
  }
  const std::size_t tokens = rounding_tokens(first);
  detail::ExpertRows copies{first, nullptr, nullptr, nullptr, x};
  WeightsInTurn<GateUp> gate_up_weights(gate_up, groups);
  WeightsInTurn<Down> down_weights(down, groups);
  for (const ExpertGroups::Group& group : groups) {
    copies.next = &group;
    copies.run(parallel);
    GateUp::multiply(table, gate_up_weights.take(), x, group.count, tokens, gates, parallel, gemm_memory);
    table.swiglu({group.count, inner, gates, gated}, parallel);
    Down::multiply(table, down_weights.take(), gated, group.count, tokens, results, parallel, gemm_memory);
    sums.clear();
    add(group, results);
    table.add_weighted_rows(sums.data(), sums.size(), hidden, parallel);
  }
}

}  // namespace edgekiln
