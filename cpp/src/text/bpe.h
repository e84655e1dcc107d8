// Byte-pair encoding (BPE): merges the characters of a word pair by pair, lowest rank first.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "text/merges.h"
#include "text/vocabulary.h"

namespace edgekiln::text {

struct Bpe {
  Vocabulary vocabulary;
  Merges merges;
  std::optional<std::uint32_t> unknown;  // token of characters that the vocabulary lacks
  bool fuse_unknown = false;             // one unknown token for consecutive such characters
  bool byte_fallback = false;            // use tokens <0x00> to <0xFF> instead of `unknown`
  bool ignore_merges = false;            // a word that is in the vocabulary is one token

  // Append the ids of `word`, which must be valid UTF-8, in O(n log n). Characters are not merged into `never` ids.
  // After a request to stop, any ids.
  void encode(std::string_view word, std::vector<std::int64_t>& ids, const std::set<std::int64_t>& never = {},
              const std::stop_token& stop = {}) const;
};

// The byte-fallback token of a byte, as "<0x0A>".
std::string byte_token(unsigned char byte);

}  // namespace edgekiln::text
