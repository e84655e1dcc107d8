// The loop every runtime shares: a prompt goes in, tokens with their text come out one by one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <vector>

#include "runtime/base.h"
#include "sampling/sampler.h"
#include "util/result.h"

namespace edgekiln {

// The numbers are those of the C interface, `edgekiln_finish`.
enum class Finish { kNone = 0, kEos = 1, kStop = 2, kLength = 3 };

struct GenerateOptions {
  std::int64_t max_tokens = 256;  // of an answer, the ending one included
  SamplingOptions sampling;
  std::vector<std::string> stop;  // an answer ends before the first of these; they are looked for in its text
  bool ignore_eos = false;        // go on after the model's own end, to `max_tokens`
  bool logprobs = false;
  bool speculate = true;  // verify drafted tokens together where that is faster; the answer is the same

  // An error of Code::kRequest if a value is out of its range.
  Result<void> check() const;
};

struct Token {
  std::int64_t id;
  std::string text;  // what it adds to the answer: whole characters only, often none
  std::optional<double> logprob;
  Finish finish;  // Finish::kNone but for the last token
};

// Why an answer ended; how many tokens were drafted for it, and how many of them it went on with.
struct Ending {
  Finish finish = Finish::kNone;
  std::int64_t drafted_tokens = 0;
  std::int64_t accepted_tokens = 0;
};

// Turns ids that come one by one to text, never splitting a character.
class TextStream {
 public:
  virtual ~TextStream() = default;
  virtual std::string push(std::int64_t token) = 0;
  virtual std::string flush() = 0;
};

// How many of the first tokens of `prompt`, but for its last, are those that a cache holds.
std::int64_t shared_length(Ids held, Ids prompt);

// Answer `prompt`. What it shares with what `cache` holds is not computed again; the rest of the cache is forgotten. At
// the end, and when `take` cancels, the cache holds the prompt and the tokens given but for the last.
//
// Args:
//   text: where the answer's text comes from; null for an answer without text, which stop strings cannot end.
//   eos: ids that end an answer.
//   take: called with each token; false cancels.
//   cancel: asks to stop, from any thread.
//
// An error is of Code::kRequest before any token, of Code::kCancelled, or the runtime's.
Result<Ending> generate(const Runtime& runtime, Cache& cache, TextStream* text, const std::set<std::int64_t>& eos,
                        Ids prompt, const GenerateOptions& options, const std::function<bool(const Token&)>& take,
                        const std::stop_token& cancel);

}  // namespace edgekiln
