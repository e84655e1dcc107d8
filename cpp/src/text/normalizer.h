// What is done to a text before it is split.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "text/pattern.h"
#include "text/unicode.h"

namespace edgekiln::text {

struct Lowercase {};

struct Strip {
  bool left;
  bool right;
};

// Nothing goes before an empty text.
struct Prepend {
  std::string text;
};

struct Replace {
  Pattern pattern;
  std::string content;
};

using Normalizer = std::variant<Form, Lowercase, Strip, Prepend, Replace>;

// `text`, which is valid UTF-8, after all `steps`. An error as of Regex::find.
Result<std::string> normalize(const std::vector<Normalizer>& steps, std::string text);

}  // namespace edgekiln::text
