// The decoder layers of a transformer as sequences of kernels: QKV prologue, attention and post-attention block.
//
// One call computes a whole block or all layers, so that during decoding one thread team (common/thread_team.h) stays
// awake throughout; as nodes of a graph, each kernel would wake ONNX Runtime's thread pool again.
#pragma once

#include <algorithm>
#include <cstddef>
#include <thread>
#include <vector>

#include "kernels/kernel_table.h"

namespace edgekiln {

// Weight formats. multiply() computes out[m, n] = a[m, k] * w with this processor's kernel, which must not be null;
// `tokens` as in NBitsGemmKernel.
// kSplitsByTokens allows PostAttentionBlock to split a prompt by tokens instead of splitting every GEMM by columns.
struct NBitsWeight {
  static constexpr bool kSplitsByTokens = false;  // every task would requantize the weights to int8 again

  void multiply(const float* a, std::size_t m, std::size_t tokens, float* out, const Parallel& parallel,
                Scratch& scratch) const {
    kernels().nbits_gemm(packed, a, m, tokens, out, parallel, scratch);
  }

  PackedNBits packed;
};

struct PerTokenInt8Weight {
  static constexpr bool kSplitsByTokens = true;

  void multiply(const float* a, std::size_t m, std::size_t, float* out, const Parallel& parallel,
                Scratch& scratch) const {
    kernels().per_token_int8_gemm(packed, a, m, out, parallel, scratch);
  }

  PackedInt8 packed;
};

// Widths of a decoder layer's activations, in floats a token: attention's output, the residual stream, the MLP's inner
// state, and the packed QKV projections.
struct DecoderWidths {
  std::size_t attended, hidden, intermediate, projected;
};

// Memory that a caller keeps, as iterations of its parallel loops may run on any thread.
struct DecoderScratch {
  Scratch memory;           // the activations between the kernels of a block
  Scratch parts;            // what one kernel needs
  Scratch router, experts;  // of a mixture
};

// One call of a post-attention block, for m tokens.
struct PostAttentionArgs {
  const float* attended;  // [m, attended]
  const float* residual;  // [m, hidden]
  std::size_t m, tokens;  // tokens: of a sequence
  float* projected;       // [m, projected]
  float* sum;             // [m, hidden], the new residual; may be `residual`
};

// A decoder layer from its attention's output on, and the QKV projections of the next layer:
//   sum = residual + attended * W_output
//   sum = sum + swiglu(rms_norm(sum, gamma) * W_gate_up) * W_down
//   projected = rms_norm(sum, next_gamma) * W_next
template <typename Weight>
struct PostAttentionBlock {
  DecoderWidths widths;
  float epsilon, next_epsilon;
  const float *gamma, *next_gamma;  // [hidden]; the caller owns them
  Weight output, gate_up, down, next;

  // Floats at the start of `scratch.memory` in compute() that may be args.projected: they are free when it is written.
  std::size_t projected_size(std::size_t m) const {
    return m * (splits_by_tokens(m) ? widths.projected : floats_a_token());
  }

  void compute(const PostAttentionArgs& args, const Parallel& parallel, DecoderScratch& scratch) const {
    if (!splits_by_tokens(args.m)) return compute_tokens(args, parallel, scratch);
    SplitByTokens split{*this, args};
    parallel.run(parallel.self, compute_task, (args.m + kTokensATask - 1) / kTokensATask, &split);
  }

 private:
  // A task of at least so many tokens reuses each weight often enough, while its activations stay in the L2 cache. Each
  // task reads all weights, so these must fit a cache, too.
  static constexpr std::size_t kTokensATask = 32, kMaxWeightBytes = 4 << 20;

  struct SplitByTokens {
    const PostAttentionBlock& block;
    const PostAttentionArgs& args;
  };

  bool splits_by_tokens(std::size_t m) const {
    static const std::size_t threads = std::thread::hardware_concurrency();
    const std::size_t weights = widths.hidden * (widths.attended + 3 * widths.intermediate + widths.projected);
    return Weight::kSplitsByTokens && m >= 4 * kTokensATask * threads && weights <= kMaxWeightBytes;
  }

  // Layout of `scratch.memory`, in floats a token, each part for all tokens:
  //   gate and up | swiglu's output, where the normalized hidden state was before it
  // W_down's output lies behind the projections, in place of gate and up if it fits there.
  std::size_t down_offset() const {
    const std::size_t behind = widths.projected, gate_up_width = 2 * widths.intermediate;
    return behind + widths.hidden <= gate_up_width ? behind : std::max(behind, gate_up_width + widths.intermediate);
  }
  std::size_t floats_a_token() const {
    return std::max(2 * widths.intermediate + std::max(widths.intermediate, widths.hidden),
                    down_offset() + widths.hidden);
  }

  void compute_tokens(const PostAttentionArgs& args, const Parallel& parallel, DecoderScratch& scratch) const {
    const KernelTable& table = kernels();
    const std::size_t m = args.m, hidden = widths.hidden, inner = widths.intermediate;
    float* const gates = at_least(scratch.memory, m * floats_a_token());
    float* const gated = gates + m * 2 * inner;
    float* const x = gated;
    float* const down_out = gates + m * down_offset();
    output.multiply(args.attended, m, args.tokens, x, parallel, scratch.parts);
    table.skip_rms_norm({m, hidden, args.residual, x, gamma, nullptr, epsilon, x, args.sum}, parallel);
    gate_up.multiply(x, m, args.tokens, gates, parallel, scratch.parts);
    table.swiglu({m, inner, gates, gated}, parallel);
    down.multiply(gated, m, args.tokens, down_out, parallel, scratch.parts);
    table.skip_rms_norm({m, hidden, args.sum, down_out, next_gamma, nullptr, next_epsilon, down_out, args.sum},
                        parallel);
    next.multiply(down_out, m, args.tokens, args.projected, parallel, scratch.parts);
  }

  static void compute_task(void* context, std::size_t index) {
    const auto& [block, args] = *static_cast<const SplitByTokens*>(context);
    const DecoderWidths& widths = block.widths;
    const std::size_t first = index * kTokensATask, m = std::min(kTokensATask, args.m - first);
    thread_local DecoderScratch scratch;
    block.compute_tokens({args.attended + first * widths.attended, args.residual + first * widths.hidden, m,
                          args.tokens, args.projected + first * widths.projected, args.sum + first * widths.hidden},
                         kSerial, scratch);
  }
};

// One call of a decoder stack, for m tokens.
struct DecoderStackArgs {
  const float* projected;     // [m, projected], packed QKV projections of the first layer
  const float* residual;      // [m, hidden]
  std::size_t m, tokens;      // tokens: of a sequence
  float* attended = nullptr;  // [m, attended], the output of each attention, at last of the last one
  float* sum = nullptr;       // [m, hidden], the residual of the last layer
  AttentionKernel attention = nullptr;
  std::vector<AttentionArgs> attentions{};  // one an attention; compute() sets query, key and value
};

// All layers of a decoder: it begins and ends with an attention, and each attention but the last is followed by a
// post-attention block: a PostAttentionBlock or a MixturePostAttentionBlock.
template <typename Block>
struct DecoderStack {
  DecoderWidths widths;
  std::vector<QkvPrologueArgs>
      prologues{};              // one an attention, for any number of tokens; without bias and gammas: none
  std::vector<Block> blocks{};  // one fewer

  void compute(DecoderStackArgs& args, const Parallel& parallel, DecoderScratch& scratch) const {
    float* const projections = at_least(scratch.memory, blocks.front().projected_size(args.m));
    for (std::size_t i = 0; i < args.attentions.size(); ++i) {
      const float* qkv = i ? projections : args.projected;
      if (QkvPrologueArgs prologue = prologues[i]; prologue.bias || prologue.gammas[0]) {
        prologue.tokens = args.m;
        prologue.from = qkv;
        qkv = prologue.to = projections;
        kernels().qkv_prologue(prologue, parallel);
      }
      args.attentions[i].set_packed_qkv(qkv, widths.projected);
      args.attention(args.attentions[i], parallel, scratch.parts);
      if (i == blocks.size()) return;
      blocks[i].compute({args.attended, i ? args.sum : args.residual, args.m, args.tokens, projections, args.sum},
                        parallel, scratch);
    }
  }
};

}  // namespace edgekiln
