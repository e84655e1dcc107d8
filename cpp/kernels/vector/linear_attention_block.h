// Blocks of tokens in linear attention: one pass over the state reads it for all tokens of a block, a second one adds
// what they wrote (Yang et al., "Gated Delta Networks", 2025, section 3.3, with blocks that fit the registers). For
// every instruction set.
//
// With S the state before the block, c(t) the product of the decays up to token t and r(t, s) that of those after s:
//   u(t) = factor(t) (v(t) - c(t) Sᵀk(t) - sum over s < t of r(t, s) (k(t)·k(s)) u(s)), v(t) without the delta rule
//   out(t) = scale (c(t) Sᵀq(t) + sum over s <= t of r(t, s) (q(t)·k(s)) u(s)) + skip v(t)
//   next S = c(last) S + sum over t of k(t) ⊗ r(last, t) u(t)
#pragma once

#include "kernels/vector/linear_attention_factors.h"
#include "kernels/vector/linear_attention_state.h"

namespace edgekiln::EDGEKILN_ISA {

// Vectors of a row that a pass takes together, as far as registers last.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int kBlockVectors = 2;
#else
inline constexpr int kBlockVectors = 1;
#endif

// A block of one head.
class Block {
 public:
  Block(const LinearAttentionArgs& args, const TokenFactors& factors, std::size_t sequence, std::size_t head,
        std::size_t block)
      : args_(args), skip_(args.skip ? args.skip[head] : 0.0f) {
    const std::size_t key_head = head / (args.heads / args.key_heads);
    const std::size_t first = sequence * args.length + block * kBlockTokens;
    const BlockProducts& products = factors.products(sequence, key_head, block);
    float total = 1.0f;
    for (std::size_t t = 0; t < kBlockTokens; ++t) {
      const std::size_t token = first + t, key = token * args.key_stride + key_head * args.key_dim;
      query_[t] = args.query + key;
      key_[t] = args.key + key;
      value_[t] = args.value + token * args.value_stride + head * args.value_dim;
      out_[t] = args.out + (token * args.heads + head) * args.value_dim;
      kept_[t] = factors.kept(token, head);
      total *= kept_[t];
      from_state_[t] = total;
      factor_[t] = factors.factor(token, head);
      query_scale_[t] = factors.query_scale(token, key_head);
      key_scale_[t] = factors.key_scale(token, key_head);
    }
    for (std::size_t s = 0; s < kBlockTokens; ++s) {
      float ratio = 1.0f;
      for (std::size_t t = s; t < kBlockTokens; ++t) {
        if (t > s) ratio *= kept_[t];
        seen_[s][t] = ratio * products.query[s][t];
        if (args.delta) known_[s][t] = ratio * products.key[s][t] * key_scale_[t];
      }
      to_state_[s] = ratio;
    }
  }

  // The next tokens of the head, which hardware does not foresee, as they are far apart.
  void prefetch_next(std::size_t column, std::size_t count) const {
    constexpr std::size_t kLine = 64 / sizeof(float);
    for (const float* const value : value_)
      for (std::size_t i = 0; i < count; i += kLine)
        __builtin_prefetch(value + kBlockTokens * args_.value_stride + column + i);
  }

  // Applies the block to `count` columns of the state, at most Vectors of them, from `column` of the values on; the
  // rows begin there.
  template <int Vectors>
  void apply(std::size_t column, std::size_t count, StateRows from, NextRows to) const {
    Floats reads[kBlockTokens][Vectors], news[kBlockTokens][Vectors];
    const auto value_of = [&](std::size_t t, int i) {
      return load_first(value_[t] + column + i * kLanes, count - i * kLanes);
    };
    if (args_.delta) {
      read<Vectors>(key_, from, reads);
      for (std::size_t t = 0; t < kBlockTokens; ++t)
        for (int i = 0; i < Vectors; ++i)
          news[t][i] = subtracted(value_of(t, i), reads[t][i], broadcast(from_state_[t] * key_scale_[t]));
      for (std::size_t t = 0; t < kBlockTokens; ++t)
        for (int i = 0; i < Vectors; ++i) {
          Floats sum = news[t][i];
          for (std::size_t s = 0; s < t; ++s) sum = subtracted(sum, news[s][i], broadcast(known_[s][t]));
          news[t][i] = sum * (factor_[t] * key_scale_[t]);
        }
    } else {
      for (std::size_t t = 0; t < kBlockTokens; ++t)
        for (int i = 0; i < Vectors; ++i) news[t][i] = value_of(t, i) * (factor_[t] * key_scale_[t]);
    }
    read<Vectors>(query_, from, reads);
    for (std::size_t t = 0; t < kBlockTokens; ++t)
      for (int i = 0; i < Vectors; ++i) {
        Floats sum = reads[t][i] * from_state_[t];
        for (std::size_t s = 0; s <= t; ++s) sum = added(sum, news[s][i], broadcast(seen_[s][t]));
        const Floats out = added(sum * query_scale_[t], broadcast(skip_), value_of(t, i));
        store_first(out_[t] + column + i * kLanes, out, count - i * kLanes);
      }
    for (std::size_t t = 0; t < kBlockTokens; ++t)
      for (int i = 0; i < Vectors; ++i) news[t][i] *= to_state_[t];
    write<Vectors>(news, from, to);
  }

 private:
  // sums = Sᵀx for each of the tokens.
  template <int Vectors>
  void read(const float* const (&x)[kBlockTokens], StateRows from, Floats (&sums)[kBlockTokens][Vectors]) const {
    Floats found[kBlockTokens][Vectors] = {};
    for (std::size_t row = 0; row < args_.key_dim; ++row) {
      Floats state[Vectors];
      for (int i = 0; i < Vectors; ++i) state[i] = load(from.first + row * from.stride + i * kLanes);
      for (std::size_t t = 0; t < kBlockTokens; ++t) {
        const Floats factor = broadcast(x[t][row]);
        for (int i = 0; i < Vectors; ++i) found[t][i] = added(found[t][i], factor, state[i]);
      }
    }
    for (std::size_t t = 0; t < kBlockTokens; ++t)
      for (int i = 0; i < Vectors; ++i) sums[t][i] = found[t][i];
  }

  template <int Vectors>
  void write(const Floats (&news)[kBlockTokens][Vectors], StateRows from, NextRows to) const {
    const Floats kept = broadcast(from_state_[kBlockTokens - 1]);
    for (std::size_t row = 0; row < args_.key_dim; ++row) {
      Floats state[Vectors];
      for (int i = 0; i < Vectors; ++i) state[i] = load(from.first + row * from.stride + i * kLanes) * kept;
      for (std::size_t t = 0; t < kBlockTokens; ++t) {
        const Floats key = broadcast(key_[t][row]);
        for (int i = 0; i < Vectors; ++i) state[i] = added(state[i], key, news[t][i]);
      }
      for (int i = 0; i < Vectors; ++i) store(to.first + row * to.stride + i * kLanes, state[i]);
    }
  }

  const LinearAttentionArgs& args_;
  float skip_;
  const float *query_[kBlockTokens], *key_[kBlockTokens], *value_[kBlockTokens];
  float* out_[kBlockTokens];
  float kept_[kBlockTokens], factor_[kBlockTokens], query_scale_[kBlockTokens], key_scale_[kBlockTokens];
  float from_state_[kBlockTokens], to_state_[kBlockTokens];                     // c(t), r(last, t)
  float seen_[kBlockTokens][kBlockTokens], known_[kBlockTokens][kBlockTokens];  // [s][t]: factors of u(s)
};

}  // namespace edgekiln::EDGEKILN_ISA
