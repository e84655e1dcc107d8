// tokenizer.json as it is: vocabulary and merges in one piece each, the rest as JSON.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/vocabulary.h"

namespace edgekiln::text {

struct TokenizerJson {
  nlohmann::json rest;  // all but model.vocab and model.merges
  Vocabulary vocabulary;
  bool has_vocabulary = false;                                  // an object of ids by token
  bool has_merges = false;                                      // a list
  std::vector<std::pair<std::uint32_t, std::uint32_t>> merges;  // lengths of left and right in `merge_texts`
  std::string merge_texts;
};

// Throws nlohmann::json::exception if it is no JSON, and Refused (see json.h) if it is none of a tokenizer.
//
// Of a hundred thousand tokens a tree of JSON values would take tens of megabytes and most of the time to load.
TokenizerJson read_tokenizer_json(std::string_view text);

}  // namespace edgekiln::text
