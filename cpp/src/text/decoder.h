// How tokens become text again.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace edgekiln::text {

// Characters that stand for bytes become them; bytes that are no UTF-8 become U+FFFD.
struct DecodeByteLevel {};

// Tokens <0x00> to <0xFF> in a row become the text they are, or U+FFFD each.
struct DecodeByteFallback {};

// All tokens become one.
struct DecodeFuse {};

struct DecodeReplace {
  std::string text;
  std::string content;
};

// Up to `start` of the character at each token's beginning and `stop` at its end go.
struct DecodeStrip {
  std::string character;
  std::size_t start;
  std::size_t stop;
};

struct DecodeMetaspace {
  std::string replacement;
  bool drop_first;  // those of the first token stand for nothing
};

using Decoder =
    std::variant<DecodeByteLevel, DecodeByteFallback, DecodeFuse, DecodeReplace, DecodeStrip, DecodeMetaspace>;

// `tokens` after all `steps`, together.
std::string decode(const std::vector<Decoder>& steps, std::vector<std::string> tokens);

}  // namespace edgekiln::text
