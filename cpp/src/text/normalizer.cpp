#include "text/normalizer.h"

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

}  // namespace

Result<std::string> normalize(const std::vector<Normalizer>& steps, std::string text) {
  for (const Normalizer& step : steps) {
    Result<std::string> next = std::visit(Apply{text}, step);
    if (!next) return next;
    text = std::move(next).value();
  }
  return text;
}

}  // namespace edgekiln::text
