// Drafting without a model: the tokens that followed the last earlier occurrence of the sequence's current suffix.
//
// Source: prompt lookup decoding (Saxena 2023).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/base.h"

namespace edgekiln {

// The tokens of a sequence, prompt and answer so far, with lookup of its suffix.
class PromptLookup {
 public:
  explicit PromptLookup(Ids prompt) : tokens_(prompt.begin(), prompt.end()) {}

  void append(std::int64_t token) { tokens_.push_back(token); }

  // At most `max_draft` tokens that followed the last earlier occurrence of the last 3 tokens, or else of the last 2;
  // empty if there is none. Valid until the next append.
  Ids draft(std::size_t max_draft) const;

 private:
  std::vector<std::int64_t> tokens_;
};

}  // namespace edgekiln
