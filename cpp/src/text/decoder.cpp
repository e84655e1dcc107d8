#include "text/decoder.h"

#include <optional>

#include "text/pattern.h"
#include "text/pre_tokenizer.h"
#include "text/utf8.h"

namespace edgekiln::text {

namespace {

using Tokens = std::vector<std::string>;

// The bytes that the token's characters represent, or the token if one of them represents none.
std::string bytes_of(const std::string& token) {
  std::string bytes;
  for (std::size_t at = 0; at < token.size();) {
    const CodePoint next = code_point_at(token, at);
    const int byte = byte_of_character(next.value);
    if (byte < 0) return token;
    bytes += static_cast<char>(static_cast<unsigned char>(byte));
    at += next.size;
  }
  return bytes;
}

std::optional<unsigned> hex_digit(char c) {
  if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0');
  if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') return static_cast<unsigned>((c | 0x20) - 'a') + 10;
  return std::nullopt;
}

// The byte of a token like <0x0A>.
std::optional<char> fallback_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || !token.ends_with('>')) return std::nullopt;
  // `tokenizers` accepts a plus sign as the first digit.
  const auto high = token[3] == '+' ? std::optional(0U) : hex_digit(token[3]);
  const auto low = hex_digit(token[4]);
  if (!high || !low) return std::nullopt;
  return static_cast<char>(static_cast<unsigned char>(*high << 4 | *low));
}

std::string joined(const Tokens& tokens) {
  std::string text;
  for (const std::string& token : tokens) text += token;
  return text;
}

struct Apply {
  Tokens& tokens;

  void operator()(DecodeByteLevel) const {
    std::string bytes;
    for (const std::string& token : tokens) bytes += bytes_of(token);
    tokens = {to_valid_utf8(bytes)};
  }

  void operator()(DecodeByteFallback) const {
    Tokens out;
    std::string bytes;
    const auto flush = [&] {
      if (bytes.empty()) return;
      if (is_valid_utf8(bytes))
        out.push_back(bytes);
      else
        out.insert(out.end(), bytes.size(), "\xEF\xBF\xBD");
      bytes.clear();
    };
    for (std::string& token : tokens) {
      if (const auto byte = fallback_byte(token)) {
        bytes += *byte;
      } else {
        flush();
        out.push_back(std::move(token));
      }
    }
    flush();
    tokens = std::move(out);
  }

  void operator()(DecodeFuse) const { tokens = {joined(tokens)}; }

  void operator()(const DecodeReplace& step) const {
    for (std::string& token : tokens) {
      Result<std::string> changed = replaced(step.text, token, step.content);
      if (changed) token = std::move(changed).value();  // replacing a plain string cannot fail
    }
  }

  void operator()(const DecodeStrip& step) const {
    for (std::string& token : tokens) {
      std::string_view rest = token;
      for (std::size_t i = 0; i < step.start && rest.starts_with(step.character); ++i)
        rest.remove_prefix(step.character.size());
      for (std::size_t i = 0; i < step.stop && rest.ends_with(step.character); ++i)
        rest.remove_suffix(step.character.size());
      token = std::string(rest);
    }
  }

  void operator()(const DecodeMetaspace& step) const {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      Result<std::string> changed = replaced(step.replacement, tokens[i], i == 0 && step.drop_first ? "" : " ");
      if (changed) tokens[i] = std::move(changed).value();
    }
  }
};

}  // namespace

std::string decode(const std::vector<Decoder>& steps, Tokens tokens) {
  for (const Decoder& step : steps) std::visit(Apply{tokens}, step);
  return joined(tokens);
}

}  // namespace edgekiln::text
