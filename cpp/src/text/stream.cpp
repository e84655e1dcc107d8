#include "text/stream.h"

#include <algorithm>
#include <span>

#include "text/utf8.h"

namespace edgekiln::text {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// A character has at most four bytes and a token at least one, so at most three tokens are missing after its first.
constexpr std::size_t kMaxMissingTokens = 3;

std::size_t replacements_at_end(std::string_view text) {
  std::size_t count = 0;
  for (; text.ends_with(kReplacement); text.remove_suffix(kReplacement.size())) ++count;
  return count;
}

}  // namespace

std::string StreamingDecoder::decode(std::size_t count) const {
  return tokenizer_.decode(std::span(window_).first(count));
}

std::string StreamingDecoder::push(std::int64_t token) {
  if (!tokenizer_.has_text(token)) return {};
  window_.push_back(token);
  const std::string text = decode(window_.size());
  const std::size_t unfinished = replacements_at_end(text);
  if (unfinished == 0) return emit(window_.size(), text);
  if (std::min(unfinished, window_.size() - context_) > 2 * kMaxMissingTokens) {
    // These bytes are not valid UTF-8 and never become a character: emit them as U+FFFD, so that the window does not
    // grow. Only the last tokens may still be the start of a character.
    const std::size_t stable = window_.size() - kMaxMissingTokens;
    return emit(stable, decode(stable));
  }
  return {};
}

std::string StreamingDecoder::flush() { return emit(window_.size(), decode(window_.size())); }

std::string StreamingDecoder::emit(std::size_t count, const std::string& text) {
  std::size_t at = 0;
  for (std::size_t i = 0; i < context_characters_ && at < text.size(); ++i) at += code_point_at(text, at).size;
  if (at == text.size()) return {};
  window_.erase(window_.begin(), window_.begin() + static_cast<std::ptrdiff_t>(context_));
  context_ = count - context_;
  context_characters_ = count_code_points(decode(context_));
  return text.substr(at);
}

}  // namespace edgekiln::text
