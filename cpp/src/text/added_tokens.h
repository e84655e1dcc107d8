// Tokens that are found in a text before it is split and merged.
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
  bool single_word = false;  // not next to a letter, digit or underscore
  bool lstrip = false;       // with the spaces before it
  bool rstrip = false;       // with the spaces after it
  bool normalized = false;   // looked for in normalized text
  bool special = false;
};

// Part of a text that is a token, or not: then its id is negative.
struct Section {
  Span span;
  std::int64_t id;
};

// Finds added tokens, the longest where several begin at one place.
class AddedTokenFinder {
 public:
  // What to look for and which token that is; of equal texts the first counts. None is empty.
  explicit AddedTokenFinder(const std::vector<std::pair<std::string, AddedToken>>& tokens);

  // All of `text`, which is valid UTF-8, in order.
  std::vector<Section> split(std::string_view text) const;

 private:
  struct Node {
    std::vector<std::pair<unsigned char, std::uint32_t>> next;  // by byte, in order
    std::int64_t token = -1;
  };

  // The longest token that begins at `at` and where it ends, or null.
  std::pair<const AddedToken*, std::size_t> match(std::string_view text, std::size_t at) const;

  std::vector<Node> nodes_;
  std::vector<AddedToken> tokens_;
};

}  // namespace edgekiln::text
