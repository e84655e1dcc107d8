// SAX parsing of tokenizer.json: the vocabulary and merges go into compact arrays, everything else into a JSON tree.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/vocabulary.h"
#include "util/json_reader.h"

namespace edgekiln::text {

struct TokenizerJson {
  JsonDocument rest;  // everything but model.vocab and model.merges
  Vocabulary vocabulary;
  bool has_vocabulary = false;                                  // model.vocab is an object of ids by token
  bool has_merges = false;                                      // model.merges is a list
  std::vector<std::pair<std::uint32_t, std::uint32_t>> merges;  // byte lengths of left and right in `merge_texts`
  std::string merge_texts;
};

// Throws JsonError if `text` is not JSON or not a tokenizer.
//
// A JSON tree of 100,000 tokens would take tens of megabytes and dominate the load time.
TokenizerJson read_tokenizer_json(std::string_view text);

}  // namespace edgekiln::text
