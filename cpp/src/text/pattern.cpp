#include "text/pattern.h"

namespace edgekiln::text {

Result<void> find(const Pattern& pattern, std::string_view text, std::vector<Span>& matches) {
  if (const Regex* regex = std::get_if<Regex>(&pattern)) return regex->find(text, matches);
  const std::string& wanted = *std::get_if<std::string>(&pattern);
  if (wanted.empty()) return {};
  for (std::size_t at = text.find(wanted); at != std::string_view::npos; at = text.find(wanted, at + wanted.size()))
    matches.push_back({at, at + wanted.size()});
  return {};
}

Result<std::string> replaced(const Pattern& pattern, std::string_view text, std::string_view content) {
  std::vector<Span> matches;
  if (const Result<void> found = find(pattern, text, matches); !found) return std::unexpected(found.error());
  if (matches.empty()) return std::string(text);
  std::string out;
  std::size_t at = 0;
  for (const Span& match : matches) {
    out += text.substr(at, match.begin - at);
    out += content;
    at = match.end;
  }
  out += text.substr(at);
  return out;
}

}  // namespace edgekiln::text
