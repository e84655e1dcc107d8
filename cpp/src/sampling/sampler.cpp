#include "sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <utility>

#include "sampling/exp.h"
#include "util/str_cat.h"

namespace edgekiln {

namespace {

using Limits = std::numeric_limits<float>;

std::uint64_t fresh_seed() {
  std::random_device device;
  return (static_cast<std::uint64_t>(device()) << 32) | device();
}

bool is_finite(double value) { return value < std::numeric_limits<double>::infinity(); }

// A positive number as a float by which logits can be divided: in the normal numbers, so that no quotient is NaN.
float divisor(double value) {
  return static_cast<float>(std::clamp(value, static_cast<double>(Limits::min()), static_cast<double>(Limits::max())));
}

float penalized(float logit, float penalty) {
  if (!std::isfinite(logit)) return logit;
  return std::clamp(logit < 0 ? logit * penalty : logit / penalty, Limits::lowest(), Limits::max());
}

// Index of the first maximum; NaN counts as the maximum. Blocks without a larger value, nearly all, are compared at
// once.
std::size_t argmax(std::span<const float> values) {
  constexpr std::size_t kBlock = 32;
  std::size_t best = 0;
  for (std::size_t first = 0; first < values.size(); first += kBlock) {
    const std::span<const float> block = values.subspan(first, std::min(kBlock, values.size() - first));
    const float largest = values[best];
    if (block.size() == kBlock && !std::isnan(largest)) {
      int larger = 0;
      for (std::size_t i = 0; i < kBlock; ++i) larger |= !(block[i] <= largest);
      if (!larger) continue;
    }
    for (std::size_t i = 0; i < block.size(); ++i) {
      if (std::isnan(block[i])) return first + i;
      if (block[i] > values[best]) best = first + i;
    }
  }
  return best;
}

}  // namespace

SamplingOptions SamplingOptions::from_defaults(const SamplingDefaults& defaults) {
  SamplingOptions options;
  options.temperature = defaults.temperature.value_or(options.temperature);
  options.top_k = defaults.top_k.value_or(options.top_k);
  options.top_p = defaults.top_p.value_or(options.top_p);
  options.min_p = defaults.min_p.value_or(options.min_p);
  options.repetition_penalty = defaults.repetition_penalty.value_or(options.repetition_penalty);
  return options;
}

Result<void> SamplingOptions::check() const {
  if (!(temperature >= 0 && is_finite(temperature)))
    return fail(Code::kRequest, "temperature must be 0 or more, got ", temperature);
  if (top_k < 0) return fail(Code::kRequest, "top_k must be 0 (off) or more, got ", top_k);
  if (!(top_p >= 0 && top_p <= 1)) return fail(Code::kRequest, "top_p must be in [0, 1], got ", top_p);
  if (!(min_p >= 0 && min_p <= 1)) return fail(Code::kRequest, "min_p must be in [0, 1], got ", min_p);
  if (!(repetition_penalty > 0 && is_finite(repetition_penalty)))
    return fail(Code::kRequest, "repetition_penalty must be more than 0, got ", repetition_penalty);
  return {};
}

Sampler::Sampler(const SamplingOptions& options)
    : options_(options), generator_(SplitMix64::stream(options.seed ? *options.seed : fresh_seed(), 0)) {}

void Sampler::observe(std::span<const std::int64_t> tokens) {
  if (options_.repetition_penalty != 1) seen_.insert(tokens.begin(), tokens.end());
}

Result<Choice> Sampler::sample(std::span<const float> logits, bool logprob, std::optional<Bitmask> mask) {
  std::span<const float> scores = logits;
  if (!seen_.empty()) {
    const float penalty = divisor(options_.repetition_penalty);
    scores_.assign(logits.begin(), logits.end());
    for (const std::int64_t token : seen_) {
      float& score = scores_[static_cast<std::size_t>(token)];
      score = penalized(score, penalty);
    }
    scores = scores_;
  }
  const std::size_t best = argmax(scores);
  if (!std::isfinite(scores[best]))
    return fail(Code::kRuntime, "the engine's logits hold ", scores[best], ": the engine or its weights are broken");
  float highest = scores[best];
  auto token = static_cast<std::int64_t>(best);
  std::optional<Indices> allowed;
  std::vector<float> left;
  // Most of the time a model prefers a token that is allowed. Greedy choices need no more then.
  if (mask && !(options_.temperature == 0 && allows(*mask, best))) {
    allowed = allowed_ids(*mask, scores.size());
    for (const std::int32_t id : *allowed) left.push_back(scores[static_cast<std::size_t>(id)]);
    scores = left;
    const std::size_t at = left.empty() ? 0 : argmax(left);
    if (left.empty() || left[at] == -std::numeric_limits<float>::infinity())
      return fail(Code::kRequest, "the mask allows no token that the model can choose: allow one, or end the answer");
    highest = left[at];
    token = (*allowed)[at];
  }
  if (options_.temperature > 0) token = draw(scores, highest, std::move(allowed));
  if (options_.repetition_penalty != 1) seen_.insert(token);
  Choice choice{token, std::nullopt};
  if (logprob) choice.logprob = log_probability(logits, static_cast<std::size_t>(token));
  return choice;
}

std::int64_t Sampler::draw(std::span<const float> logits, float highest, std::optional<Indices> tokens) {
  const float temperature = divisor(options_.temperature);
  std::vector<float> scores(logits.size());
  std::transform(logits.begin(), logits.end(), scores.begin(), [=](float x) { return (x - highest) / temperature; });
  const auto keep = [&](const Indices& kept) {
    std::vector<float> fewer;
    Indices ids;
    for (const std::int32_t index : kept) {
      const auto at = static_cast<std::size_t>(index);
      fewer.push_back(scores[at]);
      ids.push_back(tokens ? (*tokens)[at] : index);
    }
    scores = std::move(fewer);
    tokens = std::move(ids);
  };
  if (options_.top_k > 0) keep(top_k(scores, static_cast<std::size_t>(options_.top_k)));
  if (options_.top_p < 1) keep(top_p(scores, options_.top_p));
  if (options_.min_p > 0) keep(min_p(scores, options_.min_p));
  // The most likely token always passes the filters, and its score is 0.
  exp_of_negative(scores);
  const std::size_t chosen = pick(scores, generator_.uniform());
  return tokens ? (*tokens)[chosen] : static_cast<std::int64_t>(chosen);
}

double log_probability(std::span<const float> logits, std::size_t token) {
  const float highest = *std::max_element(logits.begin(), logits.end());
  std::vector<float> weights(logits.size());
  std::transform(logits.begin(), logits.end(), weights.begin(), [=](float logit) { return logit - highest; });
  exp_of_negative(weights);
  double total = 0;
  for (const float weight : weights) total += static_cast<double>(weight);
  return static_cast<double>(logits[token] - highest) - std::log(total);
}

}  // namespace edgekiln
