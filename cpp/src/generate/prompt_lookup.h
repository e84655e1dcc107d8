// Drafting tokens without a model: what followed the last time that the sequence read as it reads now.
//
// Source: prompt lookup decoding (Saxena 2023).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/base.h"

namespace edgekiln {

// A sequence, prompt and answer so far, that is looked up in itself.
class PromptLookup {
 public:
  explicit PromptLookup(Ids prompt) : tokens_(prompt.begin(), prompt.end()) {}

  void append(std::int64_t token) { tokens_.push_back(token); }

  // At most `most` tokens that followed the last earlier occurrence of the sequence's last 3 tokens, or else of its
  // last 2; none where there is neither. They are valid until the next token is appended.
  Ids draft(std::size_t most) const;

 private:
  std::vector<std::int64_t> tokens_;
};

}  // namespace edgekiln
