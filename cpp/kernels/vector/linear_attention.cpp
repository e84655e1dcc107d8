#include "kernels/linear_attention.h"

#include <algorithm>
#include <cmath>

#include "kernels/vector/for_each_row.h"
#include "kernels/vector/softplus.h"
#include "kernels/vector/stripes.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

// Columns of a state are independent of each other: a task computes up to kColumns of one head, in a copy that stays in
// the L1 cache for all tokens.
constexpr int kVectors = 4;
constexpr std::size_t kColumns = kVectors * kLanes;

// Tokens that are applied to a vector of the state while it is in a register, as far as registers last.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTokens = 4;
#else
constexpr int kTokens = 2;
#endif

// The first `count` of kLanes floats at `from`, then zeros. Without std::copy_n: GCC makes REP MOVS of it, which takes
// longer to start than a token to update.
Floats load_first(const float* from, std::size_t count) {
  if (count >= kLanes) return load(from);
  Floats found = {};
  for (std::size_t i = 0; i < count; ++i) found[i] = from[i];
  return found;
}

void store_first(float* to, Floats values, std::size_t count) {
  if (count >= kLanes) return store(to, values);
  for (std::size_t i = 0; i < count; ++i) to[i] = values[i];
}

float dot(const float* a, const float* b, std::size_t count) {
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

float inverse_length(const float* x, std::size_t count, float epsilon) {
  return epsilon == 0.0f ? 1.0f : 1.0f / std::sqrt(dot(x, x, count) + epsilon);
}

// What the update of one token by one head takes.
struct Token {
  const float *query, *key, *value;
  float* out;
  float kept = 1.0f;                 // factor on the state
  const float* kept_rows = nullptr;  // factors of its rows, instead; null for none
  float factor = 1.0f;               // on the new values
  float key_scale = 1.0f, query_scale = 1.0f;

  float factor_of_key() const { return factor * key_scale; }
};

class HeadColumns {
 public:
  HeadColumns(const LinearAttentionArgs& args, std::size_t sequence, std::size_t head, std::size_t first)
      : args_(args),
        sequence_(sequence),
        head_(head),
        first_(first),
        count_(std::min(kColumns, args.value_dim - first)) {}

  void compute() {
    const std::size_t state = (sequence_ * args_.heads + head_) * args_.key_dim * args_.value_dim + first_;
    const Rows past{args_.past + state, args_.value_dim}, copy{state_, kColumns};
    float* const present = args_.present + state;
    // Whole vectors are read from the past and written to the present without a copy, which matters to a decode step.
    const std::size_t vectors = (count_ + kLanes - 1) / kLanes;
    const bool whole = count_ == vectors * kLanes;
    if (!whole) {
      std::fill_n(state_, args_.key_dim * kColumns, 0.0f);
      copy_rows(past.first, args_.value_dim, state_, kColumns);
    }
    // The delta rule reads the state that the token before left; rows with decays of their own have one buffer for
    // them.
    const bool several = !args_.delta && !args_.decay_by_row;
    for (std::size_t token = 0; token < args_.length;) {
      const std::size_t tokens = several && token + kTokens <= args_.length ? kTokens : 1;
      const Rows from = whole && token == 0 ? past : copy;
      const bool last = whole && token + tokens == args_.length;
      float* const to = last ? present : state_;
      const std::size_t stride = last ? args_.value_dim : kColumns;
      if (token + tokens < args_.length) prefetch(token + tokens);
      if (tokens > 1) {
        update_several(token, from, to, stride);
      } else {
        switch (vectors) {
          case 1:
            update<1>(token_at(token), from, to, stride);
            break;
          case 2:
            update<2>(token_at(token), from, to, stride);
            break;
          case 3:
            update<3>(token_at(token), from, to, stride);
            break;
          default:
            update<kVectors>(token_at(token), from, to, stride);
        }
      }
      token += tokens;
    }
    if (!whole) copy_rows(state_, kColumns, present, args_.value_dim);
  }

 private:
  // The rows of a state, `stride` floats apart.
  struct Rows {
    const float* first;
    std::size_t stride;
  };

  void copy_rows(const float* from, std::size_t from_stride, float* to, std::size_t to_stride) const {
    for (std::size_t row = 0; row < args_.key_dim; ++row)
      std::copy_n(from + row * from_stride, count_, to + row * to_stride);
  }

  // The inputs of the next tokens, which hardware does not foresee, as they are far apart.
  void prefetch(std::size_t token) const {
    constexpr std::size_t kLine = 64 / sizeof(float);
    for (std::size_t next = token; next < std::min<std::size_t>(token + kTokens, args_.length); ++next) {
      const std::size_t of_head = (sequence_ * args_.length + next) * args_.heads + head_;
      for (std::size_t i = 0; i < count_; i += kLine)
        __builtin_prefetch(args_.value + of_head * args_.value_dim + first_ + i);
    }
  }

  Token token_at(std::size_t token) {
    Token found;
    describe(token, found);
    return found;
  }

  // In place: a copy of what was just written in parts would wait for the writes.
  void describe(std::size_t token, Token& found) {
    const std::size_t at = sequence_ * args_.length + token, of_head = at * args_.heads + head_;
    const std::size_t key = (at * args_.key_heads + head_ / (args_.heads / args_.key_heads)) * args_.key_dim;
    const std::size_t value = of_head * args_.value_dim + first_;
    found.query = args_.query + key;
    found.key = args_.key + key;
    found.value = args_.value + value;
    found.out = args_.out + value;
    found.key_scale = inverse_length(found.key, args_.key_dim, args_.norm_epsilon);
    found.query_scale = args_.scale * inverse_length(found.query, args_.key_dim, args_.norm_epsilon);
    float step = 1.0f;
    if (args_.decay_by_row) {
      found.kept_rows = exp_rows(args_.decay + of_head * args_.key_dim);
    } else if (args_.decay) {
      float decay = args_.decay[of_head];
      if (args_.a) {
        step =
            std::min(std::max(softplus(broadcast(decay + args_.dt_bias[head_]))[0], args_.least_step), args_.most_step);
        decay = step * args_.a[head_];
      }
      found.kept = exp_of(broadcast(decay))[0];
    }
    switch (args_.factor) {
      case UpdateFactor::kOne:
        break;
      case UpdateFactor::kBeta:
        found.factor = args_.beta[of_head];
        break;
      case UpdateFactor::kSigmoid:
        found.factor = 1.0f / one_plus_exp_minus(broadcast(args_.beta[of_head]))[0];
        break;
      case UpdateFactor::kStep:
        found.factor = step;
    }
  }

  const float* exp_rows(const float* decay) {
    std::copy_n(decay, args_.key_dim, kept_);
    for (std::size_t i = 0; i < args_.key_dim; i += kLanes) store(kept_ + i, exp_of(load(kept_ + i)));
    return kept_;
  }

  // Reads the state `from`, which may be that at `to`.
  template <int Vectors>
  void update(const Token& token, Rows from, float* to, std::size_t stride) const {
    Floats values[Vectors], news[Vectors], sums[Vectors];
    for (int i = 0; i < Vectors; ++i) {
      values[i] = load_first(token.value + i * kLanes, count_ - i * kLanes);
      sums[i] = Floats{};
    }
    const float news_scale = token.factor_of_key();
    for (int i = 0; i < Vectors; ++i) news[i] = values[i] * news_scale;
    if (args_.delta) {
      Floats known[Vectors];
      for (Floats& each : known) each = Floats{};
      for (std::size_t row = 0; row < args_.key_dim; ++row) {
        const float* const at = from.first + row * from.stride;
        const Floats key = broadcast(token.key[row]), kept = broadcast(kept_of(token, row));
        for (int i = 0; i < Vectors; ++i) known[i] = added(known[i], key, load(at + i * kLanes) * kept);
      }
      for (int i = 0; i < Vectors; ++i)
        news[i] = subtracted(values[i], known[i], broadcast(token.key_scale)) * news_scale;
    }
    for (std::size_t row = 0; row < args_.key_dim; ++row) {
      const float* const at = from.first + row * from.stride;
      const Floats key = broadcast(token.key[row]), query = broadcast(token.query[row]);
      const Floats kept = broadcast(kept_of(token, row));
      for (int i = 0; i < Vectors; ++i) {
        const Floats state = added(load(at + i * kLanes) * kept, key, news[i]);
        store(to + row * stride + i * kLanes, state);
        sums[i] = added(sums[i], query, state);
      }
    }
    const Floats skip = broadcast(args_.skip ? args_.skip[head_] : 0.0f);
    for (int i = 0; i < Vectors; ++i)
      store_first(token.out + i * kLanes, added(sums[i] * token.query_scale, skip, values[i]), count_ - i * kLanes);
  }

  // The same for kTokens tokens from `first` on, without the delta rule; each has the bits that update() gives it.
  void update_several(std::size_t first, Rows from, float* to, std::size_t stride) {
    Token tokens[kTokens];
    for (int i = 0; i < kTokens; ++i) describe(first + i, tokens[i]);
    for (std::size_t column = 0; column < count_; column += 2 * kLanes) {
      const Rows rows{from.first + column, from.stride};
      if (column + kLanes < count_) {
        update_columns<2>(tokens, column, rows, to + column, stride);
      } else {
        update_columns<1>(tokens, column, rows, to + column, stride);
      }
    }
  }

  template <int Vectors>
  void update_columns(const Token (&tokens)[kTokens], std::size_t column, Rows from, float* to, std::size_t stride) {
    const std::size_t count = std::min<std::size_t>(Vectors * kLanes, count_ - column);
    const auto value_of = [&](const Token& token, int i) {
      return load_first(token.value + column + i * kLanes, count - i * kLanes);
    };
    Floats values[kTokens][Vectors], sums[kTokens][Vectors];
    for (int token = 0; token < kTokens; ++token) {
      for (int i = 0; i < Vectors; ++i) {
        values[token][i] = value_of(tokens[token], i) * tokens[token].factor_of_key();
        sums[token][i] = Floats{};
      }
    }
    for (std::size_t row = 0; row < args_.key_dim; ++row) {
      const float* const at = from.first + row * from.stride;
      Floats state[Vectors];
      for (int i = 0; i < Vectors; ++i) state[i] = load(at + i * kLanes);
      for (int token = 0; token < kTokens; ++token) {
        const Floats key = broadcast(tokens[token].key[row]), query = broadcast(tokens[token].query[row]);
        for (int i = 0; i < Vectors; ++i) {
          state[i] = added(state[i] * tokens[token].kept, key, values[token][i]);
          sums[token][i] = added(sums[token][i], query, state[i]);
        }
      }
      for (int i = 0; i < Vectors; ++i) store(to + row * stride + i * kLanes, state[i]);
    }
    const Floats skip = broadcast(args_.skip ? args_.skip[head_] : 0.0f);
    for (int token = 0; token < kTokens; ++token) {
      for (int i = 0; i < Vectors; ++i) {
        const Floats out = added(sums[token][i] * tokens[token].query_scale, skip, value_of(tokens[token], i));
        store_first(tokens[token].out + column + i * kLanes, out, count - i * kLanes);
      }
    }
  }

  static float kept_of(const Token& token, std::size_t row) {
    return token.kept_rows ? token.kept_rows[row] : token.kept;
  }

  const LinearAttentionArgs& args_;
  std::size_t sequence_, head_, first_, count_;
  alignas(64) float state_[kMaxLinearAttentionKeyDim * kColumns];
  alignas(64) float kept_[kMaxLinearAttentionKeyDim] = {};
};

}  // namespace

void linear_attention(const LinearAttentionArgs& args, const Parallel& parallel) {
  const std::size_t blocks = (args.value_dim + kColumns - 1) / kColumns;
  const std::size_t values = args.length * args.key_dim * std::min(args.value_dim, kColumns);
  for_each_row(args.batch * args.heads * blocks, values, parallel, [&](std::size_t block) {
    const std::size_t head = block / blocks;
    HeadColumns(args, head / args.heads, head % args.heads, block % blocks * kColumns).compute();
  });
}

}  // namespace edgekiln::EDGEKILN_ISA
