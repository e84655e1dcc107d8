// What linear attention needs of each token besides its values, computed once for all tasks: factors of every head, and
// the products of queries and keys within a block. For every instruction set.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "kernels/linear_attention.h"
#include "kernels/vector/for_each_row.h"
#include "kernels/vector/softplus.h"
#include "kernels/vector/stripes.h"

namespace edgekiln::EDGEKILN_ISA {

// Tokens that a pass over the state takes, where the call is long enough.
inline constexpr std::size_t kBlockTokens = 8;
inline constexpr std::size_t kBlocksFrom = 2 * kBlockTokens;  // tokens of a call

inline float dot(const float* a, const float* b, std::size_t count) {
  Floats parts[kStripeParts] = {};
  const auto add = [&](const float* x, const float* y) {
    for (int part = 0; part < kStripeParts; ++part)
      parts[part] = added(parts[part], load(x + part * kLanes), load(y + part * kLanes));
  };
  const std::size_t whole = count / kStripes * kStripes;
  for (std::size_t i = 0; i < whole; i += kStripes) add(a + i, b + i);
  if (whole < count) {
    float last[2][kStripes] = {};
    std::copy(a + whole, a + count, last[0]);
    std::copy(b + whole, b + count, last[1]);
    add(last[0], last[1]);
  }
  return sum_of_stripes(parts);
}

// The products of a block: [s][t] is that of key s with query or key t, for s <= t.
struct BlockProducts {
  float query[kBlockTokens][kBlockTokens], key[kBlockTokens][kBlockTokens];
};

class TokenFactors {
 public:
  TokenFactors(const LinearAttentionArgs& args, const Parallel& parallel) : args_(args) {
    const std::size_t tokens = args.batch * args.length;
    kept_.resize(tokens * args.heads);
    factor_.resize(kept_.size());
    for (std::size_t token = 0; token < tokens; ++token)
      for (std::size_t head = 0; head < args.heads; head += kLanes) compute_heads(token, head);
    if (args.norm_epsilon != 0.0f) {
      query_scale_.resize(tokens * args.key_heads);
      key_scale_.resize(query_scale_.size());
    }
    // The decays of rows of their own leave nothing to share among the tokens of a block.
    blocks_ = args.decay_by_row || args.length < kBlocksFrom ? 0 : args.length / kBlockTokens;
    products_.resize(args.batch * args.key_heads * blocks_);
    const std::size_t spans = blocks_ + 1;  // the last one has the tokens that are left over
    for_each_row(
        args.batch * args.key_heads * spans, kBlockTokens * kBlockTokens * args.key_dim, parallel,
        [&](std::size_t i) { compute_keys(i / spans / args.key_heads, i / spans % args.key_heads, i % spans); });
  }

  std::size_t blocks() const { return blocks_; }

  // Of a head and a token, counted over all sequences.
  float kept(std::size_t token, std::size_t head) const { return kept_[token * args_.heads + head]; }
  float factor(std::size_t token, std::size_t head) const { return factor_[token * args_.heads + head]; }
  float query_scale(std::size_t token, std::size_t key_head) const {
    return query_scale_.empty() ? args_.scale : query_scale_[token * args_.key_heads + key_head];
  }
  float key_scale(std::size_t token, std::size_t key_head) const {
    return key_scale_.empty() ? 1.0f : key_scale_[token * args_.key_heads + key_head];
  }
  const BlockProducts& products(std::size_t sequence, std::size_t key_head, std::size_t block) const {
    return products_[(sequence * args_.key_heads + key_head) * blocks_ + block];
  }

 private:
  // The factors of a vector of heads.
  void compute_heads(std::size_t token, std::size_t head) {
    const std::size_t count = std::min<std::size_t>(kLanes, args_.heads - head), at = token * args_.heads + head;
    const std::size_t decay_at = token * args_.decay_stride + head;
    const auto of = [&](const float* from) {
      float padded[kLanes] = {};
      for (std::size_t i = 0; i < count; ++i) padded[i] = from[i];
      return load(padded);
    };
    Floats kept = broadcast(1.0f), factor = kept;
    if (args_.decay && !args_.decay_by_row) {
      Floats decay = of(args_.decay + decay_at);
      if (args_.a) {
        const Floats step = softplus(decay + of(args_.dt_bias + head));
        const Floats limited = smaller(larger(step, broadcast(args_.least_step)), broadcast(args_.most_step));
        decay = limited * of(args_.a + head);
        if (args_.factor == UpdateFactor::kStep) factor = limited;
      }
      kept = exp_of(decay);
    }
    if (args_.factor == UpdateFactor::kBeta) factor = of(args_.beta + at);
    if (args_.factor == UpdateFactor::kSigmoid) factor = 1.0f / one_plus_exp_minus(of(args_.beta + at));
    for (std::size_t i = 0; i < count; ++i) {
      kept_[at + i] = kept[i];
      factor_[at + i] = factor[i];
    }
  }

  // The norms of a block's keys and queries, and their products; the span after the last block has norms only.
  void compute_keys(std::size_t sequence, std::size_t key_head, std::size_t span) {
    const std::size_t first = span * kBlockTokens, end = span < blocks_ ? first + kBlockTokens : args_.length;
    const auto at = [&](std::size_t token) {
      return (sequence * args_.length + token) * args_.key_stride + key_head * args_.key_dim;
    };
    const auto inverse_length = [&](const float* x) {
      return 1.0f / std::sqrt(dot(x, x, args_.key_dim) + args_.norm_epsilon);
    };
    if (!key_scale_.empty()) {
      for (std::size_t token = first; token < end; ++token) {
        const std::size_t scale = (sequence * args_.length + token) * args_.key_heads + key_head;
        query_scale_[scale] = args_.scale * inverse_length(args_.query + at(token));
        key_scale_[scale] = inverse_length(args_.key + at(token));
      }
    }
    if (span == blocks_) return;
    BlockProducts& products = products_[(sequence * args_.key_heads + key_head) * blocks_ + span];
    for (std::size_t s = 0; s < kBlockTokens; ++s) {
      const float* const key = args_.key + at(first + s);
      for (std::size_t t = s; t < kBlockTokens; ++t) {
        products.query[s][t] = dot(key, args_.query + at(first + t), args_.key_dim);
        if (args_.delta) products.key[s][t] = dot(key, args_.key + at(first + t), args_.key_dim);
      }
    }
  }

  const LinearAttentionArgs& args_;
  std::size_t blocks_ = 0;
  std::vector<float> kept_, factor_, query_scale_, key_scale_;
  std::vector<BlockProducts> products_;
};

}  // namespace edgekiln::EDGEKILN_ISA
