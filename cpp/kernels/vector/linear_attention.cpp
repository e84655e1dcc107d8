#include "kernels/linear_attention.h"

#include <algorithm>
#include <cmath>

#include "kernels/vector/softplus.h"
#include "kernels/vector/stripes.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

// Columns of a state are independent of each other: a task computes up to kColumns of one head, in a copy that stays in
// the L1 cache for all tokens.
constexpr int kVectors = 4;
constexpr std::size_t kColumns = kVectors * kLanes;

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
    for (std::size_t row = 0; row < args_.key_dim; ++row) {
      float* const to = state_ + row * kColumns;
      std::copy_n(args_.past + state + row * args_.value_dim, count_, to);
      std::fill(to + count_, to + kColumns, 0.0f);
    }
    const auto vectors = (count_ + kLanes - 1) / kLanes;
    for (std::size_t token = 0; token < args_.length; ++token) {
      if (vectors > 2) {
        update<kVectors>(token_at(token));
      } else if (vectors == 2) {
        update<2>(token_at(token));
      } else {
        update<1>(token_at(token));
      }
    }
    for (std::size_t row = 0; row < args_.key_dim; ++row)
      std::copy_n(state_ + row * kColumns, count_, args_.present + state + row * args_.value_dim);
  }

 private:
  Token token_at(std::size_t token) {
    const std::size_t at = sequence_ * args_.length + token, of_head = at * args_.heads + head_;
    const std::size_t key = (at * args_.key_heads + head_ / (args_.heads / args_.key_heads)) * args_.key_dim;
    const std::size_t value = of_head * args_.value_dim + first_;
    Token found;
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
    return found;
  }

  const float* exp_rows(const float* decay) {
    std::copy_n(decay, args_.key_dim, kept_);
    for (std::size_t i = 0; i < args_.key_dim; i += kLanes) store(kept_ + i, exp_of(load(kept_ + i)));
    return kept_;
  }

  template <int Vectors>
  void update(const Token& token) {
    Floats values[Vectors], news[Vectors], sums[Vectors] = {};
    float padded[kColumns] = {};
    std::copy_n(token.value, count_, padded);
    for (int i = 0; i < Vectors; ++i) values[i] = load(padded + i * kLanes);
    const float news_scale = token.factor * token.key_scale;
    bool decayed = !args_.decay;
    if (args_.delta) {
      Floats known[Vectors] = {};
      for (std::size_t row = 0; row < args_.key_dim; ++row) {
        const Floats key = broadcast(token.key[row]), kept = broadcast(kept_of(token, row));
        for (int i = 0; i < Vectors; ++i) {
          float* const at = state_ + row * kColumns + i * kLanes;
          const Floats state = load(at) * kept;
          store(at, state);
          known[i] = added(known[i], key, state);
        }
      }
      decayed = true;
      for (int i = 0; i < Vectors; ++i)
        news[i] = subtracted(values[i], known[i], broadcast(token.key_scale)) * news_scale;
    } else {
      for (int i = 0; i < Vectors; ++i) news[i] = values[i] * news_scale;
    }
    for (std::size_t row = 0; row < args_.key_dim; ++row) {
      const Floats key = broadcast(token.key[row]), query = broadcast(token.query[row]);
      const Floats kept = broadcast(decayed ? 1.0f : kept_of(token, row));
      for (int i = 0; i < Vectors; ++i) {
        float* const at = state_ + row * kColumns + i * kLanes;
        const Floats state = added(load(at) * kept, key, news[i]);
        store(at, state);
        sums[i] = added(sums[i], query, state);
      }
    }
    const Floats skip = broadcast(args_.skip ? args_.skip[head_] : 0.0f);
    for (int i = 0; i < Vectors; ++i) store(padded + i * kLanes, added(sums[i] * token.query_scale, skip, values[i]));
    std::copy_n(padded, count_, token.out);
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
  // A task computes several blocks of columns where each takes less time than its dispatch.
  constexpr std::size_t kTaskValues = 1 << 14;
  struct Loop {
    const LinearAttentionArgs& args;
    std::size_t blocks_a_head, blocks, blocks_a_task;
  };
  const std::size_t blocks_a_head = (args.value_dim + kColumns - 1) / kColumns;
  const std::size_t values = args.length * args.key_dim * std::min(args.value_dim, kColumns);
  Loop loop{args, blocks_a_head, args.batch * args.heads * blocks_a_head, kTaskValues / values + 1};
  const auto task = [](void* context, std::size_t index) {
    const Loop& loop = *static_cast<const Loop*>(context);
    const std::size_t first = index * loop.blocks_a_task, last = std::min(first + loop.blocks_a_task, loop.blocks);
    for (std::size_t block = first; block < last; ++block) {
      const std::size_t head = block / loop.blocks_a_head;
      HeadColumns(loop.args, head / loop.args.heads, head % loop.args.heads, block % loop.blocks_a_head * kColumns)
          .compute();
    }
  };
  parallel.run(parallel.self, task, (loop.blocks + loop.blocks_a_task - 1) / loop.blocks_a_task, &loop);
}

}  // namespace edgekiln::EDGEKILN_ISA
