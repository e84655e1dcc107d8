// Pre-tokenizer components of tokenizer.json: they split a text into words, which BPE encodes one by one.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/pattern.h"

namespace edgekiln::text {

// Where a match of the pattern goes.
enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct SplitBy {
  Pattern pattern;
  Behavior behavior;
  bool invert;  // matches are the sections between the matches of the pattern
};

struct SplitDigits {
  bool individual;
};

// Replace spaces by `replacement`, and prepend it to texts that do not start with it.
struct Metaspace {
  enum class Prepend { kNever, kFirst, kAlways };

  std::string replacement;
  Prepend prepend;
  bool split;
};

// Replace bytes by GPT-2's printable characters.
struct ByteLevel {
  bool add_prefix_space;
  bool split;  // first split by GPT-2's pattern
};

using PreTokenizer = std::variant<SplitBy, SplitDigits, Metaspace, ByteLevel>;

// Consecutive words of a text. `at_start`: the first word is at the start of the whole input.
struct Words {
  std::string text;
  std::vector<Span> spans;
  bool at_start;
};

// Apply all `steps` to `words`. Errors are those of Regex::find.
Result<void> pre_tokenize(const std::vector<PreTokenizer>& steps, Words& words);

// The character by which ByteLevel represents a byte, and the inverse; -1 if a character represents no byte.
char32_t byte_character(unsigned char byte);
int byte_of_character(char32_t character);

}  // namespace edgekiln::text
