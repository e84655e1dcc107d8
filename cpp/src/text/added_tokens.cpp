#include "text/added_tokens.h"

#include <algorithm>

#include "text/marked_text.h"
#include "text/unicode.h"
#include "text/utf8.h"

namespace edgekiln::text {

namespace {

std::size_t begin_of_spaces_before(std::string_view text, std::size_t end) {
  while (end > 0) {
    const CodePoint last = code_point_before(text, end);
    if (!is_space(last.value)) break;
    end -= last.size;
  }
  return end;
}

std::size_t end_of_spaces_after(std::string_view text, std::size_t begin) {
  while (begin < text.size()) {
    const CodePoint next = code_point_at(text, begin);
    if (!is_space(next.value)) break;
    begin += next.size;
  }
  return begin;
}

bool stands_alone(std::string_view text, Span span) {
  return (span.begin == 0 || !is_word(code_point_before(text, span.begin).value)) &&
         (span.end == text.size() || !is_word(code_point_at(text, span.end).value));
}

bool before(const std::pair<unsigned char, std::uint32_t>& edge, unsigned char byte) { return edge.first < byte; }

}  // namespace

AddedTokenFinder::AddedTokenFinder(const std::vector<std::pair<std::string, AddedToken>>& tokens) : nodes_(1) {
  for (const auto& [content, token] : tokens) {
    std::uint32_t node = 0;
    for (const char c : content) {
      const auto byte = static_cast<unsigned char>(c);
      auto& next = nodes_[node].next;
      const auto edge = std::lower_bound(next.begin(), next.end(), byte, before);
      if (edge != next.end() && edge->first == byte) {
        node = edge->second;
      } else {
        const auto fresh = static_cast<std::uint32_t>(nodes_.size());
        next.insert(edge, {byte, fresh});
        nodes_.emplace_back();
        node = fresh;
      }
    }
    if (nodes_[node].token >= 0) continue;
    nodes_[node].token = static_cast<std::int64_t>(tokens_.size());
    tokens_.push_back(token);
  }
}

std::pair<const AddedToken*, std::size_t> AddedTokenFinder::match(std::string_view text, std::string_view marks,
                                                                  std::size_t at) const {
  const std::size_t begin = at;
  std::pair<const AddedToken*, std::size_t> longest{nullptr, at};
  std::uint32_t node = 0;
  while (at < text.size()) {
    const auto byte = static_cast<unsigned char>(text[at]);
    const auto& next = nodes_[node].next;
    const auto edge = std::lower_bound(next.begin(), next.end(), byte, before);
    if (edge == next.end() || edge->first != byte) break;
    node = edge->second;
    ++at;
    if (nodes_[node].token < 0) continue;
    const AddedToken& token = tokens_[static_cast<std::size_t>(nodes_[node].token)];
    if (!token.control || !any_given(marks, {begin, at})) longest = {&token, at};
  }
  return longest;
}

std::vector<Section> AddedTokenFinder::split(std::string_view text, std::string_view marks) const {
  std::vector<Section> sections;
  std::size_t given = 0;
  for (std::size_t at = 0; at < text.size() && !tokens_.empty();) {
    const auto [token, end] = match(text, marks, at);
    if (token == nullptr) {
      ++at;
      continue;
    }
    Span span{at, end};
    at = end;
    if (token->single_word && !stands_alone(text, span)) continue;
    if (token->lstrip) span.begin = std::max(begin_of_spaces_before(text, span.begin), given);
    if (token->rstrip) span.end = end_of_spaces_after(text, span.end);
    if (given < span.begin) sections.push_back({{given, span.begin}, -1});
    sections.push_back({span, token->id});
    given = span.end;
  }
  if (given != text.size()) sections.push_back({{given, text.size()}, -1});
  return sections;
}

}  // namespace edgekiln::text
