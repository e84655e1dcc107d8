#include "text/normalizer.h"

#include "text/utf8.h"

namespace edgekiln::text {

namespace {

struct Apply {
  std::string& text;

  Result<std::string> operator()(Form form) const { return normalized(text, form); }
  Result<std::string> operator()(Lowercase) const { return lower_case(text); }

  Result<std::string> operator()(const Strip& strip) const {
    std::size_t begin = 0;
    std::size_t end = text.size();
    while (strip.left && begin < end && is_space(code_point_at(text, begin).value))
      begin += code_point_at(text, begin).size;
    while (strip.right && begin < end && is_space(code_point_before(text, end).value))
      end -= code_point_before(text, end).size;
    return text.substr(begin, end - begin);
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
