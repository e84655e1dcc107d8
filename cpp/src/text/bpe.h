// Byte-pair encoding: a word's characters, merged pair by pair.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "text/merges.h"
#include "text/vocabulary.h"

namespace edgekiln::text {

struct Bpe {
  Vocabulary vocabulary;
  Merges merges;
  std::optional<std::uint32_t> unknown;  // for a character without a token
  bool fuse_unknown = false;             // one for neighbours
  bool byte_fallback = false;            // tokens <0x00> to <0xFF> before `unknown`
  bool ignore_merges = false;            // a word that is a token is that token

  // Append the ids of `word`, which is valid UTF-8. Takes n log n steps.
  void encode(std::string_view word, std::vector<std::int64_t>& ids) const;
};

// The token of a byte as byte fallback has it, "<0x0A>".
std::string byte_token(unsigned char byte);

}  // namespace edgekiln::text
