#include "text/normalizer.h"

#include <utility>

#include "text/utf8.h"

namespace edgekiln::text {

namespace {

struct Apply {
  std::string& text;

  Result<std::string> operator()(Form form) const { return normalized(text, form); }
  Result<std::string> operator()(Lowercase) const { return lower_case(text); }

  Result<std::string> operator()(const Strip& strip) const {
    return std::string(stripped(text, is_space, strip.left, strip.right));
  }

  Result<std::string> operator()(const Prepend& prepend) const {
    return text.empty() ? std::string() : prepend.text + text;
  }

  Result<std::string> operator()(const Replace& replace) const {
    return replaced(replace.pattern, text, replace.content);
  }
};

// The steps of `Apply` on a marked text, section by section.
class ApplyMarked {
 public:
  explicit ApplyMarked(const MarkedText& given) : given_(given) {}

  Result<MarkedText> operator()(Form form) {
    for (const Span& section : normalization_sections(given_.text, form)) add(section, normalized(part(section), form));
    return std::move(result_);
  }

  Result<MarkedText> operator()(Lowercase) {
    for (std::size_t at = 0; at < given_.text.size();) {
      const Span character{at, at + code_point_at(given_.text, at).size};
      add(character, lower_case(part(character)));
      at = character.end;
    }
    return std::move(result_);
  }

  Result<MarkedText> operator()(const Strip& strip) {
    const std::string_view rest = stripped(given_.text, is_space, strip.left, strip.right);
    keep({static_cast<std::size_t>(rest.data() - given_.text.data()),
          static_cast<std::size_t>(rest.data() - given_.text.data()) + rest.size()});
    return std::move(result_);
  }

  Result<MarkedText> operator()(const Prepend& prepend) {
    if (!given_.text.empty()) add({0, 1}, prepend.text);
    keep({0, given_.text.size()});
    return std::move(result_);
  }

  Result<MarkedText> operator()(const Replace& replace) {
    std::vector<Span> matches;
    if (const Result<void> found = find(replace.pattern, given_.text, matches); !found)
      return std::unexpected(found.error());
    std::size_t at = 0;
    for (const Span& match : matches) {
      keep({at, match.begin});
      add(match, replace.content);
      at = match.end;
    }
    keep({at, given_.text.size()});
    return std::move(result_);
  }

 private:
  std::string_view part(Span span) const {
    return std::string_view(given_.text).substr(span.begin, span.end - span.begin);
  }

  // Append `text`, which was made of a section.
  void add(Span section, std::string_view text) {
    result_.append(text, any_given(given_.marks, section) ? kGiven : kOwn);
  }

  void keep(Span section) {
    result_.text += part(section);
    result_.marks += std::string_view(given_.marks).substr(section.begin, section.end - section.begin);
  }

  const MarkedText& given_;
  MarkedText result_;
};

}  // namespace

Result<MarkedText> normalize(const std::vector<Normalizer>& steps, MarkedText text) {
  for (const Normalizer& step : steps) {
    Result<MarkedText> next = std::visit(ApplyMarked(text), step);
    if (!next) return next;
    text = std::move(next).value();
  }
  return text;
}

Result<std::string> normalize(const std::vector<Normalizer>& steps, std::string text) {
  for (const Normalizer& step : steps) {
    Result<std::string> next = std::visit(Apply{text}, step);
    if (!next) return next;
    text = std::move(next).value();
  }
  return text;
}

}  // namespace edgekiln::text
