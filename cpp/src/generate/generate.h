// The generate loop, shared by all runtimes: a prompt in, tokens with their text out, one at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <vector>

#include "generate/speculative_decoder.h"
#include "generate/text_stream.h"
#include "generate/token_mask.h"
#include "runtime/base.h"
#include "sampling/sampler.h"
#include "util/result.h"

namespace edgekiln {

// The values equal those of `edgekiln_finish_reason` in the C API.
enum class FinishReason { kNone = 0, kEos = 1, kStop = 2, kLength = 3 };

struct GenerateOptions {
  std::int64_t max_tokens = 256;  // of the answer, including the last token
  SamplingOptions sampling;
  std::vector<std::string> stop;  // the answer ends before the first of these strings; see AnswerText
  bool ignore_eos = false;        // continue after an end-of-sequence token, up to `max_tokens`
  bool logprobs = false;
  bool speculate = true;  // verify drafted tokens where that is faster; the answer does not change
  SpecialTokensChoice special_tokens = SpecialTokensChoice::kAuto;  // in the text; for the caller, who makes the stream
  MaskCallback mask;  // limits each token, speculated or not; asked before the first token and after each

  // An error of Code::kRequest if a value is out of range.
  [[nodiscard]] Result<void> check() const;
};

struct Token {
  std::int64_t id;
  std::string text;  // what the token adds to the answer: whole characters, often none
  std::optional<double> logprob;
  FinishReason finish_reason;  // kNone except for the last token; kEos also if a stop string ends in that token
};

struct Finish {
  FinishReason reason = FinishReason::kNone;
  SpeculationStats speculation;
};

// Length of the common prefix of `held` and `prompt`, at most prompt.size() - 1.
std::int64_t shared_length(Ids held, Ids prompt);

// Generate an answer to `prompt`.
//
// The cache keeps the prefix that it shares with `prompt` and drops the rest. On return, also after `on_token` has
// cancelled, it holds the prompt and all answer tokens but the last.
//
// Args:
//   text: the detokenizer; null for an answer without text, which excludes stop strings.
//   eos: ids that end the answer.
//   on_token: called with each token; returning false cancels.
//   cancel: requests a stop, from any thread.
//
// Errors: Code::kRequest before the first token, or if the mask allows no token, Code::kCancelled, or those of the
// runtime and of the mask.
Result<Finish> generate(const Runtime& runtime, KVCache& cache, TextStream* text, const std::set<std::int64_t>& eos,
                        Ids prompt, const GenerateOptions& options, const std::function<bool(const Token&)>& on_token,
                        const std::stop_token& cancel);

}  // namespace edgekiln
