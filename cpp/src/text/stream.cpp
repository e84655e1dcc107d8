#include "text/stream.h"

#include <algorithm>
#include <utility>

#include "text/utf8.h"

namespace edgekiln::text {

StreamingDecoder::StreamingDecoder(const Tokenizer& tokenizer, SpecialTokensChoice special_tokens,
                                   std::set<std::int64_t> hidden)
    : tokenizer_(tokenizer),
      special_tokens_(special_tokens),
      hidden_(std::move(hidden)),
      decoder_(tokenizer.decoders()) {}

std::string StreamingDecoder::push(std::int64_t token) {
  const auto text = shown(token);
  return text ? decoder_.push(*text) : std::string();
}

std::string StreamingDecoder::flush() { return decoder_.flush(); }

std::string StreamingDecoder::token_bytes(std::int64_t token) const { return tokenizer_.token_bytes(token); }

std::string StreamingDecoder::end_within(std::int64_t token, std::size_t size) {
  if (size == 0 || !shown(token)) return flush();
  std::string text = push(token);
  text += flush();
  const std::string bytes = token_bytes(token);
  const std::string rest = to_valid_utf8(std::string_view(bytes).substr(std::min(size, bytes.size())));
  // At the end of a text, components may have removed the last characters of `rest`.
  std::size_t left = rest.size();
  while (!text.ends_with(std::string_view(rest).substr(0, left))) --left;
  text.resize(text.size() - left);
  return text;
}

std::optional<std::string_view> StreamingDecoder::shown(std::int64_t token) const {
  if (hidden_.contains(token)) return std::nullopt;
  if (special_tokens_ == SpecialTokensChoice::kHide && tokenizer_.is_special(token)) return std::nullopt;
  return tokenizer_.token(token);
}

}  // namespace edgekiln::text
