// From logits to the next token: a repetition penalty, a temperature, filters, and a seeded draw.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_set>
#include <vector>

#include "engine/manifest.h"
#include "sampling/rng.h"
#include "util/result.h"

namespace edgekiln {

// How the next token is chosen; the defaults are greedy.
struct SamplingOptions {
  double temperature = 0;             // 0 takes the most likely token; otherwise logits are divided by it
  std::int64_t top_k = 0;             // keep the k most likely tokens; 0 keeps all
  double top_p = 1;                   // keep the most likely tokens until their probability reaches this
  double min_p = 0;                   // keep tokens at least this many times as likely as the likeliest
  double repetition_penalty = 1;      // divides positive and multiplies negative logits of tokens seen before
  std::optional<std::uint64_t> seed;  // of the draws; a fresh one without

  // A model's own defaults.
  static SamplingOptions from_defaults(const SamplingDefaults& defaults);

  // An error of Code::kRequest if a value is out of its range.
  Result<void> check() const;
};

struct Choice {
  std::int64_t token;
  std::optional<double> logprob;  // natural, of the softmax of the logits as they came
};

// Draws the tokens of one sequence; it remembers what was seen.
class Sampler {
 public:
  // `options` are checked ones.
  explicit Sampler(const SamplingOptions& options);

  // Count `tokens`, say the prompt, as seen for the repetition penalty.
  void observe(std::span<const std::int64_t> tokens);

  // The next token from float32[V] `logits`, which stay as they are.
  //
  // The steps and their precisions are those of `edgekiln.runtimes.sampling.Sampler.sample` in the Python package. An
  // error is of Code::kRuntime: the logits are not numbers.
  Result<Choice> sample(std::span<const float> logits, bool logprob);

 private:
  std::int64_t draw(std::span<const float> scores, float highest);

  SamplingOptions options_;
  SplitMix64 generator_;
  std::unordered_set<std::int64_t> seen_;
  std::vector<float> scores_;
};

// Natural logarithm of the softmax of `logits` at `token`.
double log_probability(std::span<const float> logits, std::size_t token);

}  // namespace edgekiln
