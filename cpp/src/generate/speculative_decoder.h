// Speculative decoding: the token of a step and drafted continuations are verified in one run.
//
// The answer's sampler draws every token in order; a draft only decides which logits are already computed. The tokens
// are therefore those of decoding without drafts. Source: speculative sampling with a deterministic draft (Leviathan et
// al. 2023).
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

// Token counts of one answer.
struct SpeculationStats {
  std::int64_t drafted = 0;
  std::int64_t accepted = 0;  // drafted tokens that became part of the answer; each saved a run
};

// Decodes one sequence. Its destructor drops draft tokens from the cache that were not accepted.
class SpeculativeDecoder {
 public:
  // `cache` must hold `prompt` when `step` is first called. Each token is a run of its own without `speculate`, or if
  // runtime.max_verify_tokens() is 1.
  SpeculativeDecoder(const Runtime& runtime, KVCache& cache, Ids prompt, bool speculate);
  ~SpeculativeDecoder() { drop_unused(); }
  SpeculativeDecoder(const SpeculativeDecoder&) = delete;
  SpeculativeDecoder& operator=(const SpeculativeDecoder&) = delete;

  // Append `token` to the sequence. At most `left` more tokens follow it in the answer. Logits and errors are those of
  // Runtime::append.
  Result<Logits> step(std::int64_t token, std::int64_t left, const std::stop_token& cancel);

  const SpeculationStats& stats() const { return stats_; }

 private:
  [[nodiscard]] Result<void> run(std::int64_t token, std::int64_t left, const std::stop_token& cancel);
  void drop_unused();
  // Most tokens of a draft: the token before it and the draft must be on one side of `recompute_beyond`.
  std::size_t room() const;

  const Runtime& runtime_;
  KVCache& cache_;
  std::optional<PromptLookup> lookup_;  // empty without speculation
  Speculation speculation_;
  std::vector<std::int64_t> verified_;  // tokens of the last run: one answer token, then its draft
  Logits logits_;                       // of each of them
  std::size_t used_ = 0;                // number of them that are part of the answer
  double seconds_ = 0;                  // duration of the last run
  SpeculationStats stats_;
};

}  // namespace edgekiln
