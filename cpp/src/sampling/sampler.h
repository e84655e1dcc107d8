// Sampling: repetition penalty, a mask, temperature, filters and a seeded draw.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_set>
#include <vector>

#include "engine/manifest.h"
#include "sampling/bitmask.h"
#include "sampling/filters.h"
#include "sampling/rng.h"
#include "util/result.h"

namespace edgekiln {

// The defaults are greedy.
struct SamplingOptions {
  double temperature = 0;             // 0: greedy; otherwise logits are divided by it
  std::int64_t top_k = 0;             // keep the k most likely tokens; 0: all
  double top_p = 1;                   // keep the most likely tokens whose probabilities sum to at least this
  double min_p = 0;                   // keep tokens at least this many times as likely as the most likely one
  double repetition_penalty = 1;      // divides positive and multiplies negative logits of tokens seen before
  std::optional<std::uint64_t> seed;  // random if empty

  // The model's recommended sampling; greedy where it recommends nothing.
  static SamplingOptions from_defaults(const SamplingDefaults& defaults);

  // An error of Code::kRequest if a value is out of its range.
  Result<void> check() const;
};

struct Choice {
  std::int64_t token;
  std::optional<double> logprob;  // natural logarithm, of the softmax of the unchanged logits
};

// Samples the tokens of one sequence. Keeps the tokens seen, for the repetition penalty.
class Sampler {
 public:
  // `options` must have passed check().
  explicit Sampler(const SamplingOptions& options);

  // Mark `tokens`, such as the prompt, as seen.
  void observe(std::span<const std::int64_t> tokens);

  // The next token from `logits`, float32[V], of those that `mask` allows, if there is one.
  //
  // Steps and precisions equal those of edgekiln.runtimes.sampling.sampler.Sampler.sample in Python. An error of
  // Code::kRuntime if the logits are not finite, of Code::kRequest if the mask allows no token.
  Result<Choice> sample(std::span<const float> logits, bool logprob, std::optional<Bitmask> mask = {});

 private:
  // `tokens`: those of the scores; nothing for all of the vocabulary.
  std::int64_t draw(std::span<const float> scores, float highest, std::optional<Indices> tokens);

  SamplingOptions options_;
  SplitMix64 generator_;
  std::unordered_set<std::int64_t> seen_;
  std::vector<float> scores_;
};

// log(softmax(logits)[token]).
double log_probability(std::span<const float> logits, std::size_t token);

}  // namespace edgekiln
