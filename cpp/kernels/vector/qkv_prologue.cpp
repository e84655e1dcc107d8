#include "kernels/qkv_prologue.h"

#include <algorithm>
#include <cmath>

#include "kernels/vector/for_each_row.h"
#include "kernels/vector/stripes.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

void add_bias(const float* from, const float* bias, float* to, std::size_t width) {
  std::size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(to + i, load(from + i) + load(bias + i));
  for (; i < width; ++i) to[i] = from[i] + bias[i];
}

// to = from / sqrt(mean(from^2) + epsilon) * gamma
void rms_norm(const float* from, const float* gamma, float epsilon, float* to, std::size_t width) {
  const std::size_t whole = width / kStripes * kStripes;
  Floats squares[kStripeParts] = {};
  const auto add = [&](const float* x) {
    for (int part = 0; part < kStripeParts; ++part, x += kLanes) squares[part] = added(squares[part], load(x), load(x));
  };
  for (std::size_t i = 0; i < whole; i += kStripes) add(from + i);
  if (whole < width) {
    float last[kStripes] = {};
    std::copy(from + whole, from + width, last);
    add(last);
  }
  const float mean = sum_of_stripes(squares) / static_cast<float>(width);
  const float inverse = 1.0f / std::sqrt(mean + epsilon);
  for (std::size_t i = 0; i < whole; i += kLanes) store(to + i, load(from + i) * inverse * load(gamma + i));
  for (std::size_t i = whole; i < width; ++i) to[i] = from[i] * inverse * gamma[i];
}

// Of one token.
void prologue_token(const QkvPrologueArgs& args, const float* from, float* to) {
  const std::size_t width = args.width(), dim = args.head_dim;
  if (args.bias) {
    add_bias(from, args.bias, to, width);
    from = to;
  }
  if (!args.gammas[0]) return;
  const std::size_t queries = args.heads * dim, normed = queries + args.kv_heads * dim;
  for (std::size_t at = 0; at < normed;) {
    const bool of_keys = at >= queries;
    const std::size_t norm_width = args.norm_width(of_keys);
    rms_norm(from + at, args.gammas[of_keys], args.epsilon, to + at, norm_width);
    at += norm_width;
  }
  if (from != to) std::copy(from + normed, from + width, to + normed);
}

}  // namespace

void qkv_prologue(const QkvPrologueArgs& args, const Parallel& parallel) {
  const std::size_t width = args.width();
  for_each_row(args.tokens, width, parallel,
               [&](std::size_t token) { prologue_token(args, args.from + token * width, args.to + token * width); });
}

}  // namespace edgekiln::EDGEKILN_ISA
