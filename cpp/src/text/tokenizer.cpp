#include "text/tokenizer.h"

#include <set>
#include <utility>

#include "text/utf8.h"

namespace edgekiln::text {

Tokenizer::Tokenizer(TokenizerParts parts, AddedTokenFinder as_given, AddedTokenFinder normalized,
                     std::map<std::int64_t, Shown> added)
    : parts_(std::move(parts)),
      as_given_(std::move(as_given)),
      normalized_(std::move(normalized)),
      added_(std::move(added)) {}

Result<Tokenizer> Tokenizer::parse(std::string_view text, std::string_view path) {
  Result<TokenizerParts> read = parse_tokenizer(text, path);
  if (!read) return std::unexpected(read.error());
  TokenizerParts& parts = read.value();
  std::vector<std::pair<std::string, AddedToken>> as_given;
  std::vector<std::pair<std::string, AddedToken>> after;
  std::map<std::int64_t, Shown> added;
  std::set<std::string> special;
  for (const AddedToken& token : parts.added) {
    Result<std::string> content = token.content;
    if (token.normalized) content = normalize(parts.normalizers, token.content);
    if (!content) return std::unexpected(content.error());
    if (token.special) special.insert(token.content);
    added[token.id] = {content.value(), token.special, false};
    if (!content.value().empty()) (token.normalized ? after : as_given).emplace_back(content.value(), token);
  }
  for (auto& [id, shown] : added) shown.left_out = special.contains(shown.text);
  return Tokenizer(std::move(parts), AddedTokenFinder(as_given), AddedTokenFinder(after), std::move(added));
}

Result<void> Tokenizer::encode_section(std::string_view text, bool at_start, std::vector<std::int64_t>& ids) const {
  const Result<std::string> normal = normalize(parts_.normalizers, std::string(text));
  if (!normal) return std::unexpected(normal.error());
  const std::string_view whole = normal.value();
  for (const Section& section : normalized_.split(whole)) {
    if (section.id >= 0) {
      ids.push_back(section.id);
      continue;
    }
    const std::string_view part = whole.substr(section.span.begin, section.span.end - section.span.begin);
    Words words{std::string(part), {{0, part.size()}}, at_start && section.span.begin == 0};
    if (Result<void> done = pre_tokenize(parts_.pre_tokenizers, words); !done) return done;
    for (const Span& word : words.spans)
      parts_.model.encode(std::string_view(words.text).substr(word.begin, word.end - word.begin), ids);
  }
  return {};
}

Result<std::vector<std::int64_t>> Tokenizer::encode(std::string_view given, bool add_special) const {
  const std::string repaired = is_valid_utf8(given) ? std::string() : to_valid_utf8(given);
  const std::string_view text = repaired.empty() ? given : repaired;
  std::vector<std::int64_t> ids;
  if (add_special) ids = parts_.before;
  for (const Section& section : as_given_.split(text)) {
    if (section.id >= 0) {
      ids.push_back(section.id);
      continue;
    }
    const std::string_view part = text.substr(section.span.begin, section.span.end - section.span.begin);
    if (const Result<void> done = encode_section(part, section.span.begin == 0, ids); !done)
      return std::unexpected(done.error());
  }
  if (add_special) ids.insert(ids.end(), parts_.after.begin(), parts_.after.end());
  return ids;
}

std::optional<std::string_view> Tokenizer::token(std::int64_t id) const {
  if (const auto found = added_.find(id); found != added_.end()) return found->second.text;
  return parts_.model.vocabulary.token(id);
}

bool Tokenizer::has_text(std::int64_t id) const {
  if (const auto found = added_.find(id); found != added_.end() && found->second.special) return false;
  return token(id).has_value();
}

std::string Tokenizer::decode(std::span<const std::int64_t> ids) const {
  std::vector<std::string> tokens;
  for (const std::int64_t id : ids) {
    const auto found = added_.find(id);
    const auto text = token(id);
    if (!text || (found != added_.end() && found->second.left_out)) continue;
    if (parts_.joined_by_spaces && !tokens.empty()) tokens.emplace_back(" ");
    tokens.emplace_back(*text);
  }
  return text::decode(parts_.decoders, std::move(tokens));
}

}  // namespace edgekiln::text
