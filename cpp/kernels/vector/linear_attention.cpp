#include "kernels/linear_attention.h"

#include <algorithm>
#include <cstdint>

#include "kernels/vector/for_each_row.h"
#include "kernels/vector/linear_attention_block.h"
#include "kernels/vector/linear_attention_factors.h"
#include "kernels/vector/linear_attention_state.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

// Columns of a state are independent of each other: a task computes up to kColumns of one head, in a copy that stays in
// the L1 cache for all tokens.
constexpr int kVectors = 4;
constexpr std::size_t kColumns = kVectors * kLanes;

// A decode step of a whole model displaces states of this size from the caches before the next one reads them.
constexpr std::size_t kStreamedBytes = 512 << 10;

// What the update of one token by one head takes.
struct Token {
  const float *query, *key, *value;
  float* out;
  float kept;                        // factor on the state
  const float* kept_rows = nullptr;  // factors of its rows, instead; null for none
  float factor, key_scale, query_scale;
};

class HeadColumns {
 public:
  HeadColumns(const LinearAttentionArgs& args, const TokenFactors& factors, std::size_t sequence, std::size_t head,
              std::size_t first)
      : args_(args),
        factors_(factors),
        sequence_(sequence),
        head_(head),
        first_(first),
        count_(std::min(kColumns, args.value_dim - first)) {}

  void compute() {
    const std::size_t state = (sequence_ * args_.heads + head_) * args_.key_dim * args_.value_dim + first_;
    const StateRows past{args_.past + state, args_.value_dim}, copy{state_, kColumns};
    NextRows present{args_.present + state, args_.value_dim};
    present.past_caches = streams(present.first);
    // Whole vectors are read from the past and written to the present without a copy, which matters to a decode step.
    const std::size_t vectors = (count_ + kLanes - 1) / kLanes;
    const bool whole = count_ == vectors * kLanes;
    if (!whole) {
      std::fill_n(state_, args_.key_dim * kColumns, 0.0f);
      copy_rows(past.first, args_.value_dim, state_, kColumns);
    }
    for (std::size_t token = 0; token < args_.length;) {
      const bool in_block = token < factors_.blocks() * kBlockTokens;
      const std::size_t tokens = in_block ? kBlockTokens : 1;
      const StateRows from = whole && token == 0 ? past : copy;
      const NextRows to = whole && token + tokens == args_.length ? present : NextRows{state_, kColumns};
      if (in_block) {
        apply(token / kBlockTokens, from, to);
      } else {
        const Token found = token_at(token);
        switch (vectors) {
          case 1:
            update<1>(found, from, to);
            break;
          case 2:
            update<2>(found, from, to);
            break;
          case 3:
            update<3>(found, from, to);
            break;
          default:
            update<kVectors>(found, from, to);
        }
      }
      token += tokens;
    }
    if (!whole) copy_rows(state_, kColumns, present.first, args_.value_dim);
  }

 private:
  bool streams(const float* present) const {
    const std::size_t floats = args_.batch * args_.heads * args_.key_dim * args_.value_dim;
    return kStreams && floats * sizeof(float) >= kStreamedBytes && args_.value_dim % kLanes == 0 &&
           reinterpret_cast<std::uintptr_t>(present) % sizeof(Floats) == 0;
  }

  void copy_rows(const float* from, std::size_t from_stride, float* to, std::size_t to_stride) const {
    for (std::size_t row = 0; row < args_.key_dim; ++row)
      std::copy_n(from + row * from_stride, count_, to + row * to_stride);
  }

  void apply(std::size_t block, StateRows from, NextRows to) const {
    const Block found(args_, factors_, sequence_, head_, block);
    if (block + 1 < factors_.blocks()) found.prefetch_next(first_, count_);
    constexpr std::size_t kStep = kBlockVectors * kLanes;
    for (std::size_t column = 0; column < count_; column += kStep) {
      const StateRows rows{from.first + column, from.stride};
      const NextRows next{to.first + column, to.stride};
      if (column + kStep - kLanes < count_) {
        found.apply<kBlockVectors>(first_ + column, count_ - column, rows, next);
      } else {
        found.apply<1>(first_ + column, count_ - column, rows, next);
      }
    }
  }

  Token token_at(std::size_t token) {
    const std::size_t at = sequence_ * args_.length + token, of_head = at * args_.heads + head_;
    const std::size_t key_head = head_ / (args_.heads / args_.key_heads);
    const std::size_t key = at * args_.key_stride + key_head * args_.key_dim;
    Token found{};
    found.query = args_.query + key;
    found.key = args_.key + key;
    found.value = args_.value + at * args_.value_stride + head_ * args_.value_dim + first_;
    found.out = args_.out + of_head * args_.value_dim + first_;
    found.kept = factors_.kept(at, head_);
    found.factor = factors_.factor(at, head_);
    found.key_scale = factors_.key_scale(at, key_head);
    found.query_scale = factors_.query_scale(at, key_head);
    if (args_.decay_by_row) found.kept_rows = exp_rows(args_.decay + of_head * args_.key_dim);
    return found;
  }

  const float* exp_rows(const float* decay) {
    std::copy_n(decay, args_.key_dim, kept_);
    for (std::size_t i = 0; i < args_.key_dim; i += kLanes) store(kept_ + i, exp_of(load(kept_ + i)));
    return kept_;
  }

  // Reads the state `from`, which may be that at `to`.
  template <int Vectors>
  void update(const Token& token, StateRows from, NextRows to) const {
    Floats values[Vectors], news[Vectors];
    for (int i = 0; i < Vectors; ++i) values[i] = load_first(token.value + i * kLanes, count_ - i * kLanes);
    const float news_scale = token.factor * token.key_scale;
    for (int i = 0; i < Vectors; ++i) news[i] = values[i] * news_scale;
    if (args_.delta) {
      Floats known[Vectors] = {};
      for (std::size_t row = 0; row < args_.key_dim; ++row) {
        const float* const at = from.first + row * from.stride;
        if (to.past_caches) prefetch_state<Vectors>(at);
        const Floats key = broadcast(token.key[row]), kept = broadcast(kept_of(token, row));
        for (int i = 0; i < Vectors; ++i) known[i] = added(known[i], key, load(at + i * kLanes) * kept);
      }
      for (int i = 0; i < Vectors; ++i)
        news[i] = subtracted(values[i], known[i], broadcast(token.key_scale)) * news_scale;
    }
    Floats sums[Vectors];
    if (to.past_caches) {
      update_rows<Vectors, true>(token, news, from, to, sums);
      end_streaming();
    } else {
      update_rows<Vectors, false>(token, news, from, to, sums);
    }
    const Floats skip = broadcast(args_.skip ? args_.skip[head_] : 0.0f);
    for (int i = 0; i < Vectors; ++i)
      store_first(token.out + i * kLanes, added(sums[i] * token.query_scale, skip, values[i]), count_ - i * kLanes);
  }

  // Adds the new values to the rows, and sums them up for the query.
  template <int Vectors, bool Stream>
  void update_rows(const Token& token, const Floats (&news)[Vectors], StateRows from, NextRows to,
                   Floats (&sums)[Vectors]) const {
    Floats found[Vectors] = {};
    for (std::size_t row = 0; row < args_.key_dim; ++row) {
      const float* const at = from.first + row * from.stride;
      if constexpr (Stream) prefetch_state<Vectors>(at);
      const Floats key = broadcast(token.key[row]), query = broadcast(token.query[row]);
      const Floats kept = broadcast(kept_of(token, row));
      for (int i = 0; i < Vectors; ++i) {
        const Floats state = added(load(at + i * kLanes) * kept, key, news[i]);
        store_state<Stream>(to.first + row * to.stride + i * kLanes, state);
        found[i] = added(found[i], query, state);
      }
    }
    for (int i = 0; i < Vectors; ++i) sums[i] = found[i];
  }

  static float kept_of(const Token& token, std::size_t row) {
    return token.kept_rows ? token.kept_rows[row] : token.kept;
  }

  const LinearAttentionArgs& args_;
  const TokenFactors& factors_;
  std::size_t sequence_, head_, first_, count_;
  alignas(64) float state_[kMaxLinearAttentionKeyDim * kColumns];
  alignas(64) float kept_[kMaxLinearAttentionKeyDim] = {};
};

}  // namespace

void linear_attention(const LinearAttentionArgs& given, const Parallel& parallel) {
  LinearAttentionArgs args = given;
  if (!args.key_stride) args.key_stride = args.key_heads * args.key_dim;
  if (!args.value_stride) args.value_stride = args.heads * args.value_dim;
  if (!args.decay_stride) args.decay_stride = args.heads;
  const TokenFactors factors(args, parallel);
  const std::size_t blocks = (args.value_dim + kColumns - 1) / kColumns;
  const std::size_t values = args.length * args.key_dim * std::min(args.value_dim, kColumns);
  for_each_row(args.batch * args.heads * blocks, values, parallel, [&](std::size_t block) {
    const std::size_t head = block / blocks;
    HeadColumns(args, factors, head / args.heads, head % args.heads, block % blocks * kColumns).compute();
  });
}

}  // namespace edgekiln::EDGEKILN_ISA
