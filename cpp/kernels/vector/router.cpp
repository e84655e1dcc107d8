#include "kernels/router.h"

#include <algorithm>
#include <limits>

#include "kernels/isa_kernels.h"
#include "kernels/vector/exponential.h"
#include "kernels/vector/for_each_row.h"
#include "kernels/vector/stripes.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

// Dot products that are computed at once, so that each load serves several: their sums fit the registers.
constexpr std::size_t kTileTokens = kStripeParts == 1 ? 4 : 2, kTileExperts = kTileTokens;
// Of a task, whose part of the weight stays in the L2 cache for all its tokens.
constexpr std::size_t kTaskExperts = 8, kTaskTokens = 64;

struct Logits {
  const Router& router;
  const RouterArgs& args;
  std::size_t expert_tasks;
};

// Each sum is in the order of sum_of_stripes(), whatever the tile.
template <std::size_t Tokens, std::size_t Experts>
void logits_tile(const Router& router, const RouterArgs& args, std::size_t token, std::size_t expert) {
  const std::size_t hidden = router.hidden, whole = hidden / kStripes * kStripes, rest = hidden - whole;
  Floats sums[Tokens][Experts][kStripeParts] = {};
  const auto add = [&](const float* a, std::size_t a_stride, const float* b, std::size_t b_stride) {
#pragma GCC unroll 4
    for (int part = 0; part < kStripeParts; ++part) {
      Floats x[Tokens];
#pragma GCC unroll 4
      for (std::size_t i = 0; i < Tokens; ++i) x[i] = load(a + i * a_stride + part * kLanes);
#pragma GCC unroll 4
      for (std::size_t j = 0; j < Experts; ++j) {
        const Floats w = load(b + j * b_stride + part * kLanes);
#pragma GCC unroll 4
        for (std::size_t i = 0; i < Tokens; ++i) sums[i][j][part] = added(sums[i][j][part], x[i], w);
      }
    }
  };
  const float *const x = args.x + token * hidden, *const w = router.weight + expert * hidden;
  for (std::size_t k = 0; k < whole; k += kStripes) add(x + k, hidden, w + k, hidden);
  if (rest) {
    float last_x[Tokens * kStripes] = {}, last_w[Experts * kStripes] = {};
    for (std::size_t i = 0; i < Tokens; ++i) std::copy_n(x + i * hidden + whole, rest, last_x + i * kStripes);
    for (std::size_t j = 0; j < Experts; ++j) std::copy_n(w + j * hidden + whole, rest, last_w + j * kStripes);
    add(last_x, kStripes, last_w, kStripes);
  }
  for (std::size_t i = 0; i < Tokens; ++i)
    for (std::size_t j = 0; j < Experts; ++j) {
      const float bias = router.bias ? router.bias[expert + j] : 0.0f;
      args.logits[(token + i) * router.stride() + expert + j] = sum_of_stripes(sums[i][j]) + bias;
    }
}

template <std::size_t Tokens>
void logits_of_tokens(const Router& router, const RouterArgs& args, std::size_t token, std::size_t expert,
                      std::size_t last_expert) {
  for (; expert + kTileExperts <= last_expert; expert += kTileExperts)
    logits_tile<Tokens, kTileExperts>(router, args, token, expert);
  for (; expert < last_expert; ++expert) logits_tile<Tokens, 1>(router, args, token, expert);
}

void logits_task(void* context, std::size_t index) {
  const auto& [router, args, expert_tasks] = *static_cast<const Logits*>(context);
  const std::size_t expert = index % expert_tasks * kTaskExperts, token = index / expert_tasks * kTaskTokens;
  const std::size_t last_expert = std::min(expert + kTaskExperts, router.experts);
  const std::size_t last_token = std::min(token + kTaskTokens, args.tokens);
  std::size_t at = token;
  for (; at + kTileTokens <= last_token; at += kTileTokens)
    logits_of_tokens<kTileTokens>(router, args, at, expert, last_expert);
  for (; at < last_token; ++at) logits_of_tokens<1>(router, args, at, expert, last_expert);
}

// values[count] to their softmax, in whole vectors: values past the last are set to 0.
void softmax(float* values, std::size_t count) {
  float largest = values[0];
  for (std::size_t i = 1; i < count; ++i) largest = std::max(largest, values[i]);
  const std::size_t end = (count + kStripes - 1) / kStripes * kStripes;
  std::fill(values + count, values + end, -std::numeric_limits<float>::infinity());
  Floats sums[kStripeParts] = {};
  for (std::size_t i = 0; i < end; i += kStripes)
    for (int part = 0; part < kStripeParts; ++part) {
      float* const at = values + i + part * kLanes;
      const Floats power = exp_of_negative(load(at) - largest);
      sums[part] += power;
      store(at, power);
    }
  const float sum = sum_of_stripes(sums);
  for (std::size_t i = 0; i < end; i += kLanes) store(values + i, load(values + i) / sum);
}

void sigmoid(float* values, std::size_t count) {
  for (std::size_t i = 0; i < count; i += kLanes) store(values + i, 1.0f / one_plus_exp_minus(load(values + i)));
}

// The experts of the highest scores by insertion: an expert comes after those before it whose scores are equal.
void choose(const Router& router, const float* scores, std::int64_t* index, float* chosen) {
  std::size_t count = 0;
  for (std::size_t expert = 0; expert < router.experts; ++expert) {
    const float score = router.choice_bias ? scores[expert] + router.choice_bias[expert] : scores[expert];
    if (count == router.chosen) {
      if (!(score > chosen[count - 1])) continue;
      --count;
    }
    std::size_t at = count++;
    for (; at && score > chosen[at - 1]; --at) {
      chosen[at] = chosen[at - 1];
      index[at] = index[at - 1];
    }
    chosen[at] = score;
    index[at] = static_cast<std::int64_t>(expert);
  }
}

void route_token(const Router& router, float* scores, std::int64_t* index, float* gates) {
  if (router.score == RouterScore::kSoftmax) softmax(scores, router.experts);
  if (router.score == RouterScore::kSigmoid) {
    std::fill(scores + router.experts, scores + router.stride(), 0.0f);
    sigmoid(scores, router.stride());
  }
  choose(router, scores, index, gates);
  if (router.score == RouterScore::kSoftmaxOfChosen) {
    // The logits of the others are not needed any more.
    std::copy_n(gates, router.chosen, scores);
    softmax(scores, router.chosen);
    std::copy_n(scores, router.chosen, gates);
  } else if (router.choice_bias) {
    for (std::size_t i = 0; i < router.chosen; ++i) gates[i] = scores[index[i]];
  }
  if (router.normalized) {
    float sum = 0.0f;
    for (std::size_t i = 0; i < router.chosen; ++i) sum += gates[i];
    sum += router.sum_epsilon;
    for (std::size_t i = 0; i < router.chosen; ++i) gates[i] /= sum;
  }
  for (std::size_t i = 0; i < router.chosen; ++i) gates[i] *= router.scale;
}

}  // namespace

void route(const Router& router, const RouterArgs& args, const Parallel& parallel) {
  Logits logits{router, args, (router.experts + kTaskExperts - 1) / kTaskExperts};
  const std::size_t token_tasks = (args.tokens + kTaskTokens - 1) / kTaskTokens;
  parallel.run(parallel.self, logits_task, logits.expert_tasks * token_tasks, &logits);
  const std::size_t stride = router.stride(), chosen = router.chosen;
  for_each_row(args.tokens, stride, parallel, [&](std::size_t token) {
    route_token(router, args.logits + token * stride, args.index + token * chosen, args.gates + token * chosen);
  });
}

}  // namespace edgekiln::EDGEKILN_ISA
