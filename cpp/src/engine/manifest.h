// engine.json: what an engine directory states of itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "util/result.h"

namespace edgekiln {

constexpr std::int64_t kSchemaVersion = 1;

// Sizes in elements, lengths in tokens; `kv_heads` and `head_dims` have one number a layer.
struct Architecture {
  std::string model_type;
  std::int64_t vocab_size = 0;
  std::int64_t layers = 0;
  std::vector<std::int64_t> kv_heads;
  std::vector<std::int64_t> head_dims;
  std::int64_t max_length = 0;
};

// `shared-buffer` is one [B, KV, capacity, D] buffer bound as past and as present.
struct KeyValueLayout {
  std::string kind;
  std::string dtype;
};

// What a plan was compiled by and for.
struct TensorRTBuild {
  std::string library;
  std::string version;
  std::vector<std::string> compute_capabilities;  // as 8.9
  bool stripped = false;                          // the plan has no weights
};

// Names of the graph's inputs and outputs; those of the cache carry `{layer}`.
struct GraphIO {
  std::string input_ids = "input_ids";
  std::string position_ids = "position_ids";
  std::string logits = "logits";
  std::string past_key = "past.{layer}.key";
  std::string past_value = "past.{layer}.value";
  std::string present_key = "present.{layer}.key";
  std::string present_value = "present.{layer}.value";
  std::optional<std::string> total_length;  // int32[1], the largest length of the batch, where the graph wants it
  std::optional<std::string> logits_start;  // int64[1], the first position to give logits of, where the graph asks
};

// A name of the cache, in one layer.
std::string in_layer(std::string name, std::size_t layer);

struct SpecialTokens {
  std::optional<std::int64_t> bos;
  std::vector<std::int64_t> eos;
  std::optional<std::int64_t> pad;
  bool add_bos = false;
};

// From the model's generation_config.
struct SamplingDefaults {
  std::optional<double> temperature;
  std::optional<std::int64_t> top_k;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
};

struct Manifest {
  std::string name;
  std::string source;
  std::string target;
  Architecture architecture;
  std::map<std::string, std::string> graphs;  // role -> file
  GraphIO io;
  KeyValueLayout kv;
  std::optional<TensorRTBuild> tensorrt;
  std::string scheme;  // of its quantization, "none" for weights in float
  SpecialTokens tokens;
  SamplingDefaults sampling;
  std::map<std::string, std::string> files;  // file -> SHA-256
};

// Read the text of an engine.json; `path` is what errors call it.
//
// An error is of Code::kEngine if the text is damaged, of Code::kUnsupported if its schema is a newer one.
Result<Manifest> parse_manifest(std::string_view text, std::string_view path);

// Read engine.json and check that every file it names is there.
Result<Manifest> read_manifest(const std::filesystem::path& directory);

// Check the SHA-256 of files: with `weights` of large ones that are not graphs, else of all others.
Result<void> verify_files(const std::filesystem::path& directory, const Manifest& manifest, bool weights);

}  // namespace edgekiln
