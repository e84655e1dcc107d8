#include "text/marked_text.h"

#include "text/utf8.h"

namespace edgekiln::text {

void MarkedText::append(std::string_view part, char mark) {
  if (is_valid_utf8(part))
    text += part;
  else
    text += to_valid_utf8(part);
  marks.resize(text.size(), mark);
}

bool any_given(std::string_view marks, Span span) {
  return !marks.empty() && marks.substr(span.begin, span.end - span.begin).find(kGiven) != std::string_view::npos;
}

}  // namespace edgekiln::text
