#include "text/stream.h"

#include <algorithm>
#include <span>

#include "text/utf8.h"

namespace edgekiln::text {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// A character is at most four bytes, so at most three tokens can wait for the rest of one.
constexpr std::size_t kLongestWait = 3;

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
  if (unfinished == 0) return give(window_.size(), text);
  if (std::min(unfinished, window_.size() - given_) > 2 * kLongestWait) {
    // Bytes of no character: waiting for more would decode all of them again and again. The last tokens may yet be the
    // beginning of one.
    const std::size_t stable = window_.size() - kLongestWait;
    return give(stable, decode(stable));
  }
  return {};
}

std::string StreamingDecoder::flush() { return give(window_.size(), decode(window_.size())); }

std::string StreamingDecoder::give(std::size_t count, const std::string& text) {
  std::size_t at = 0;
  for (std::size_t i = 0; i < given_characters_ && at < text.size(); ++i) at += code_point_at(text, at).size;
  if (at == text.size()) return {};
  window_.erase(window_.begin(), window_.begin() + static_cast<std::ptrdiff_t>(given_));
  given_ = count - given_;
  given_characters_ = count_code_points(decode(given_));
  return text.substr(at);
}

}  // namespace edgekiln::text
