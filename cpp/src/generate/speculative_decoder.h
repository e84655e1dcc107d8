// Decoding with drafts: the tokens of a step and those drafted behind it are verified in one run.
//
// The answer's own sampler draws every token, in order, and a draft only says which logits are at hand already: tokens
// are those of decoding one by one. Source: speculative sampling with a deterministic draft (Leviathan et al. 2023).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <vector>

#include "generate/prompt_lookup.h"
#include "generate/speculation.h"
#include "runtime/base.h"
#include "util/result.h"

namespace edgekiln {

// Steps one sequence. When it goes, so does what of a draft the cache still holds but was not asked for.
class SpeculativeDecoder {
 public:
  // `cache`: is to hold `prompt` by the first step. Without `speculate`, or where the runtime max_verify_tokens
  // nothing, each token is a run of its own.
  SpeculativeDecoder(const Runtime& runtime, Cache& cache, Ids prompt, bool speculate);
  ~SpeculativeDecoder() { forget_rest(); }
  SpeculativeDecoder(const SpeculativeDecoder&) = delete;
  SpeculativeDecoder& operator=(const SpeculativeDecoder&) = delete;

  // Go on with `token`, behind which at most `left` more tokens are wanted. Logits and errors as Runtime::append.
  Result<Logits> step(std::int64_t token, std::int64_t left, const std::stop_token& cancel);

  std::int64_t drafted_tokens() const { return drafted_; }

  // Drafted tokens that the answer went on with, each of which spared a run.
  std::int64_t accepted_tokens() const { return accepted_; }

 private:
  Result<void> run(std::int64_t token, std::int64_t left, const std::stop_token& cancel);
  void forget_rest();

  const Runtime& runtime_;
  Cache& cache_;
  std::optional<PromptLookup> lookup_;  // none without speculation
  Speculation speculation_;
  std::vector<std::int64_t> verified_;  // the last run's tokens: one that was given, and its draft
  Logits logits_;                       // of each of them
  std::size_t given_ = 0;               // of them
  double seconds_ = 0;                  // of the last run
  std::int64_t drafted_ = 0;
  std::int64_t accepted_ = 0;
};

}  // namespace edgekiln
