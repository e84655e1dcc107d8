#include "text/tokenizer.h"

#include <algorithm>
#include <set>
#include <utility>

#include "text/text_length.h"
#include "text/utf8.h"

namespace edgekiln::text {

namespace {

const std::set<std::int64_t> kNone;

}  // namespace

Tokenizer::Tokenizer(TokenizerParts parts, AddedTokenFinder as_given, AddedTokenFinder normalized,
                     std::map<std::int64_t, Shown> added)
    : parts_(std::move(parts)),
      as_given_(std::move(as_given)),
      normalized_(std::move(normalized)),
      added_(std::move(added)) {
  for (const AddedToken& token : parts_.added)
    if (token.control) control_.insert(token.id);
}

Result<Tokenizer> Tokenizer::parse(std::string_view text, std::string_view path,
                                   const std::set<std::int64_t>& turn_marks) {
  Result<TokenizerParts> read = parse_tokenizer(text, path);
  if (!read) return std::unexpected(read.error());
  TokenizerParts& parts = read.value();
  std::vector<std::pair<std::string, AddedToken>> as_given;
  std::vector<std::pair<std::string, AddedToken>> after;
  std::map<std::int64_t, Shown> added;
  std::set<std::string> special;
  for (AddedToken& token : parts.added) {
    token.control = token.special || turn_marks.contains(token.id);
    Result<std::string> content = token.content;
    if (token.normalized) content = normalize(parts.normalizers, token.content);
    if (!content) return std::unexpected(content.error());
    if (token.special) special.insert(token.content);
    added[token.id] = {content.value(), false};
    if (!content.value().empty()) (token.normalized ? after : as_given).emplace_back(content.value(), token);
  }
  for (auto& [id, shown] : added) shown.left_out = special.contains(shown.text);
  return Tokenizer(std::move(parts), AddedTokenFinder(as_given), AddedTokenFinder(after), std::move(added));
}

Result<MarkedText> Tokenizer::normalize_section(std::string_view text, std::string_view marks) const {
  const bool marked = !marks.empty() && std::ranges::any_of(parts_.added, [](const AddedToken& token) {
    return token.control && token.normalized;
  });
  if (marked) return normalize(parts_.normalizers, MarkedText{std::string(text), std::string(marks)});
  Result<std::string> plain = normalize(parts_.normalizers, std::string(text));
  if (!plain) return std::unexpected(plain.error());
  return MarkedText{std::move(plain).value(), {}};
}

Result<void> Tokenizer::encode_section(std::string_view text, std::string_view marks, bool at_start,
                                       const std::stop_token& stop, std::vector<std::int64_t>& ids) const {
  const Result<MarkedText> normal = normalize_section(text, marks);
  if (!normal) return std::unexpected(normal.error());
  const std::string_view whole = normal->text;
  const std::set<std::int64_t>& never = marks.empty() ? kNone : control_;
  for (const Section& section : normalized_.split(whole, normal->marks)) {
    if (section.id >= 0) {
      ids.push_back(section.id);
      continue;
    }
    const std::string_view part = whole.substr(section.span.begin, section.span.end - section.span.begin);
    Words words{std::string(part), {{0, part.size()}}, at_start && section.span.begin == 0};
    if (Result<void> done = pre_tokenize(parts_.pre_tokenizers, words); !done) return done;
    for (const Span& word : words.spans) {
      parts_.model.encode(std::string_view(words.text).substr(word.begin, word.end - word.begin), ids, never, stop);
      if (stop.stop_requested()) return fail(Code::kCancelled, "the answer was cancelled");
    }
  }
  return {};
}

Result<std::vector<std::int64_t>> Tokenizer::encode(std::string_view given, bool add_special,
                                                    const std::stop_token& stop) const {
  const std::string repaired = is_valid_utf8(given) ? std::string() : to_valid_utf8(given);
  const std::string_view text = repaired.empty() ? given : repaired;
  std::vector<std::int64_t> ids;
  if (add_special) ids = parts_.before;
  if (const Result<void> done = encode_all(text, {}, stop, ids); !done) return std::unexpected(done.error());
  if (add_special) ids.insert(ids.end(), parts_.after.begin(), parts_.after.end());
  return ids;
}

Result<std::vector<std::int64_t>> Tokenizer::encode(const MarkedText& text, const std::stop_token& stop) const {
  std::vector<std::int64_t> ids;
  const bool given = any_given(text.marks, {0, text.text.size()});
  const Result<void> done = encode_all(text.text, given ? text.marks : std::string_view(), stop, ids);
  if (!done) return std::unexpected(done.error());
  return ids;
}

Result<void> Tokenizer::encode_all(std::string_view text, std::string_view marks, const std::stop_token& stop,
                                   std::vector<std::int64_t>& ids) const {
  for (const Section& section : as_given_.split(text, marks)) {
    if (section.id >= 0) {
      ids.push_back(section.id);
      continue;
    }
    const std::size_t size = section.span.end - section.span.begin;
    const std::string_view own = marks.empty() ? marks : marks.substr(section.span.begin, size);
    const Result<void> done =
        encode_section(text.substr(section.span.begin, size), own, section.span.begin == 0, stop, ids);
    if (!done) return done;
  }
  return {};
}

Result<void> Tokenizer::check_length(std::string_view text, std::int64_t max_tokens, std::string_view advice) const {
  return text::check_length(parts_, text, max_tokens, advice);
}

std::optional<std::string_view> Tokenizer::token(std::int64_t id) const {
  if (const auto found = added_.find(id); found != added_.end()) return found->second.text;
  return parts_.model.vocabulary.token(id);
}

bool Tokenizer::is_special(std::int64_t id) const {
  const auto found = added_.find(id);
  return found != added_.end() && found->second.left_out;
}

std::string Tokenizer::token_bytes(std::int64_t id) const {
  const auto text = token(id);
  return text ? text::token_bytes(parts_.decoders, *text) : std::string();
}

std::string Tokenizer::decode(std::span<const std::int64_t> ids) const {
  std::vector<std::string> tokens;
  for (const std::int64_t id : ids)
    if (const auto text = token(id); text && !is_special(id)) tokens.emplace_back(*text);
  return text::decode(parts_.decoders, tokens);
}

}  // namespace edgekiln::text
