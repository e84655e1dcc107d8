// A decoder layer with a mixture of experts from its attention's output on, and the QKV projections of the next layer,
// as a sequence of kernels. See decoder_block.h.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/decoder_block.h"
#include "kernels/mixture_of_experts.h"

namespace edgekiln {

// `Weight` is the format of the projections of attention, `Format` that of the experts.
//   sum = residual + attended * W_output
//   x = rms_norm(sum, gamma)
//   sum = sum + the sum over the experts that the router chooses for x, of gate * (swiglu(x * W_gate_up) * W_down)
//   projected = rms_norm(sum, next_gamma) * W_next
template <typename Weight, typename Format>
struct MixturePostAttentionBlock {
  DecoderWidths widths;  // intermediate: of one expert
  float epsilon, next_epsilon;
  const float *gamma, *next_gamma;  // [hidden]; the caller owns them
  Router router;
  Weight output;
  typename Format::Experts gate_up, down;
  Weight next;

  // As in PostAttentionBlock.
  std::size_t projected_size(std::size_t m) const { return m * floats_a_token(); }

  void compute(const PostAttentionArgs& args, const Parallel& parallel, DecoderScratch& scratch) const {
    const KernelTable& table = kernels();
    const std::size_t m = args.m, hidden = widths.hidden, pairs = m * router.chosen;
    float* const x = at_least(scratch.memory, m * floats_a_token());
    float* const mixed = x + m * mixed_offset();
    output.multiply(args.attended, m, args.tokens, x, parallel, scratch.parts);
    table.skip_rms_norm({m, hidden, args.residual, x, gamma, nullptr, epsilon, x, args.sum}, parallel);
    float* const gates = at_least(scratch.router, pairs + m * router.stride());
    std::vector<std::int64_t> index(pairs);
    table.route(router, {m, x, gates + pairs, index.data(), gates}, parallel);
    mixture_of_experts(table, Format{gate_up}, Format{down},
                       {m, router.chosen, router.experts, hidden, widths.intermediate, x, index.data(), gates, mixed},
                       parallel, scratch.experts, scratch.parts);
    table.skip_rms_norm({m, hidden, args.sum, mixed, next_gamma, nullptr, next_epsilon, mixed, args.sum}, parallel);
    next.multiply(mixed, m, args.tokens, args.projected, parallel, scratch.parts);
  }

 private:
  // Layout of `scratch.memory`, in floats a token, each part for all tokens:
  //   the normalized hidden state, in whose place the projections may be written | the experts' sum, and its norm
  std::size_t mixed_offset() const { return std::max(widths.hidden, widths.projected); }
  std::size_t floats_a_token() const { return mixed_offset() + widths.hidden; }
};

}  // namespace edgekiln
