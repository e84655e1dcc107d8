// Added tokens: strings that become one token, matched in a text before pre-tokenization.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/regex.h"

namespace edgekiln::text {

struct AddedToken {
  std::string content;
  std::uint32_t id = 0;
  bool single_word = false;  // matches only where no letter, digit or underscore is adjacent
  bool lstrip = false;       // includes the spaces before it
  bool rstrip = false;       // includes the spaces after it
  bool normalized = false;   // matched in the normalized text
  bool special = false;
  bool control = false;  // special, bos, eos or pad: not matched in given text
};

// A section of a text: an added token, or text between added tokens, with a negative id.
struct Section {
  Span span;
  std::int64_t id;
};

// Finds added tokens with a trie over bytes. Of several matches at one position, the longest wins.
class AddedTokenFinder {
 public:
  // Pairs of the string to match, not empty, and its token. Of equal strings the first counts.
  explicit AddedTokenFinder(const std::vector<std::pair<std::string, AddedToken>>& tokens);

  // The sections of `text`, which must be valid UTF-8, in order and without gaps. A control token with a given byte,
  // according to the `marks` of a MarkedText, is not found.
  std::vector<Section> split(std::string_view text, std::string_view marks = {}) const;

 private:
  struct Node {
    std::vector<std::pair<unsigned char, std::uint32_t>> next;  // sorted by byte
    std::int64_t token = -1;
  };

  // The longest token that starts at `at` and its end, or null.
  std::pair<const AddedToken*, std::size_t> match(std::string_view text, std::string_view marks, std::size_t at) const;

  std::vector<Node> nodes_;
  std::vector<AddedToken> tokens_;
};

}  // namespace edgekiln::text
