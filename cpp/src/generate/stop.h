// Finds stop strings in the bytes of tokens.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace edgekiln {

// Finds the first stop string. Tokens that may contain the start of one are held back. Stop strings are looked for in
// bytes, as by StopStringCriteria of transformers, since a token may be a part of a character.
class StopMatcher {
 public:
  // No string of `stop` may be empty.
  explicit StopMatcher(std::vector<std::string> stop);

  struct Match {
    std::size_t count;               // tokens, the oldest held back, that end before a stop string or the start of one
    std::optional<std::size_t> cut;  // if a stop string is complete: bytes before it in the token after these
  };

  // Add the bytes of a token.
  Match push(std::string_view token);

 private:
  std::size_t partial_match() const;

  std::vector<std::string> stop_;
  std::size_t longest_ = 0;
  std::string held_;
  std::deque<std::size_t> sizes_;  // bytes of each token that is held back
};

}  // namespace edgekiln
