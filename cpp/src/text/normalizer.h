// Normalizer components of tokenizer.json: changes to a text before pre-tokenization.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "text/marked_text.h"
#include "text/pattern.h"
#include "text/unicode.h"

namespace edgekiln::text {

struct Lowercase {};

struct Strip {
  bool left;
  bool right;
};

// An empty text stays empty.
struct Prepend {
  std::string text;
};

struct Replace {
  Pattern pattern;
  std::string content;
};

using Normalizer = std::variant<Form, Lowercase, Strip, Prepend, Replace>;

// `text`, which must be valid UTF-8, after all `steps`. Errors are those of Regex::find.
Result<std::string> normalize(const std::vector<Normalizer>& steps, std::string text);

// The same for a marked text. A character counts as given if one of those is that it was made of.
Result<MarkedText> normalize(const std::vector<Normalizer>& steps, MarkedText text);

}  // namespace edgekiln::text
