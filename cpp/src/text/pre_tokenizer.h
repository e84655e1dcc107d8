// How a text is cut into the words that are merged on their own.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/pattern.h"

namespace edgekiln::text {

// What becomes of what a pattern matches.
enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct SplitBy {
  Pattern pattern;
  Behavior behavior;
  bool invert;  // what it does not match is the match
};

struct SplitDigits {
  bool individual;
};

// Spaces are seen as `replacement`, which also goes before a text that does not begin with it.
struct Metaspace {
  enum class Prepend { kNever, kFirst, kAlways };

  std::string replacement;
  Prepend prepend;
  bool split;
};

// Bytes are seen as characters that show, GPT-2's.
struct ByteLevel {
  bool add_prefix_space;
  bool split;  // also by GPT-2's pattern
};

using PreTokenizer = std::variant<SplitBy, SplitDigits, Metaspace, ByteLevel>;

// Consecutive words of a text; `at_start` if the first is at the beginning of all there is to encode.
struct Words {
  std::string text;
  std::vector<Span> spans;
  bool at_start;
};

// An error as of Regex::find.
Result<void> pre_tokenize(const std::vector<PreTokenizer>& steps, Words& words);

// The character that ByteLevel has for a byte, and back; -1 if the character stands for none.
char32_t byte_character(unsigned char byte);
int byte_of_character(char32_t character);

}  // namespace edgekiln::text
