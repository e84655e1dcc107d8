// Text that remembers which of its bytes come from messages. Control tokens are recognized only in a chat template's
// own text, so what users write cannot end their turn and begin another one.
#pragma once

#include <string>
#include <string_view>

#include "text/regex.h"

namespace edgekiln::text {

constexpr char kOwn = 0;
constexpr char kGiven = 1;

struct MarkedText {
  std::string text;   // valid UTF-8
  std::string marks;  // of each byte of `text`: kOwn for one of the template's, kGiven for one of a message

  // Append `part`, all of whose bytes get `mark`. Invalid UTF-8 becomes U+FFFD.
  void append(std::string_view part, char mark);
};

// Whether `marks`, which are empty for a text that is all of the template's own, have a given byte in `span`.
bool any_given(std::string_view marks, Span span);

}  // namespace edgekiln::text
