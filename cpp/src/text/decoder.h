// Decoder components of tokenizer.json: from token strings to text.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace edgekiln::text {

// Map the characters of byte-level BPE back to bytes; invalid UTF-8 becomes U+FFFD.
struct DecodeByteLevel {};

// Decode runs of tokens <0x00> to <0xFF> as UTF-8; every byte of an invalid run becomes U+FFFD.
struct DecodeByteFallback {};

// Concatenate all tokens.
struct DecodeFuse {};

struct DecodeReplace {
  std::string text;
  std::string content;
};

// Remove up to `start` leading and `stop` trailing occurrences of the character from each token.
struct DecodeStrip {
  std::string character;
  std::size_t start;
  std::size_t stop;
};

// Replace `replacement` by a space.
struct DecodeMetaspace {
  std::string replacement;
  bool drop_first;  // in the first token, remove it instead
};

using Decoder =
    std::variant<DecodeByteLevel, DecodeByteFallback, DecodeFuse, DecodeReplace, DecodeStrip, DecodeMetaspace>;

// The concatenation of `tokens` after all `steps`.
std::string decode(const std::vector<Decoder>& steps, std::vector<std::string> tokens);

}  // namespace edgekiln::text
