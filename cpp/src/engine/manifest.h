// engine.json, the manifest of an engine directory. docs/engine-format.md describes every field.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "engine/graph_io.h"
#include "util/result.h"

namespace edgekiln {

// The only version that this library reads.
constexpr std::int64_t kSchemaVersion = 5;

// Sizes in elements, lengths in tokens; `kv_heads` and `head_dims` have one entry a KV cache layer, which is a pair of
// caches, one for keys and one for values.
struct Architecture {
  std::string model_type;
  std::int64_t vocab_size = 0;
  std::int64_t layers = 0;
  std::vector<std::int64_t> kv_heads;
  std::vector<std::int64_t> head_dims;
  std::int64_t max_length = 0;
  std::optional<std::int64_t> context_length;  // the largest `max_length` with which the model can be built, if known

  std::string length_advice() const;  // what to do about a prompt that is too long, the end of a sentence
};

// What a layer carries from token to token beside or instead of keys and values, in an array of constant size.
struct StateSpec {
  std::vector<std::int64_t> shape;  // sizes without the batch, which is the first axis
  std::string dtype;                // "float32", "float16" or "bfloat16"

  std::int64_t elements() const;  // of one sequence
};

// How the graph takes past keys, values and states and gives present ones.
struct KVCacheSpec {
  std::string layout;  // "shared-buffer": one [B, KV, capacity, D] buffer bound as both; "growing"; "in-place"
  std::string dtype;   // "float32", "float16", "bfloat16" or "int8"
  // Sliding window of each KV cache layer whose window buffer holds the last tokens only; 0: the layer holds all.
  // Empty: all do.
  std::vector<std::int64_t> windows;
  // A sequence that becomes longer than so many tokens, or shorter again, has other keys and values.
  std::optional<std::int64_t> recompute_beyond;
  std::vector<StateSpec> states;
};

// The TensorRT library and the GPUs that a plan was compiled for.
struct TensorRTBuild {
  std::string library;                            // "tensorrt" or "tensorrt_rtx"
  std::string version;                            // as "10.14.1.48"
  std::vector<std::string> compute_capabilities;  // as "8.9"
  bool weight_stripped = false;                   // the plan was built without its weights
};

struct SpecialTokens {
  std::optional<std::int64_t> bos;
  std::vector<std::int64_t> eos;  // each of them ends an answer
  std::optional<std::int64_t> pad;
  bool add_bos = false;
};

// The model's recommended sampling, from its generation_config.
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
  KVCacheSpec kv_cache;
  std::optional<TensorRTBuild> tensorrt;
  std::string scheme;  // of the quantization; "none" for float weights
  SpecialTokens special_tokens;
  SamplingDefaults sampling;
  std::map<std::string, std::string> files;  // file -> SHA-256 in hex
};

// Parse the text of an engine.json; `path` names it in errors.
//
// An error is of Code::kEngine if the text is damaged, of Code::kUnsupported if it has another schema version.
Result<Manifest> parse_manifest(std::string_view text, std::string_view path);

// Read engine.json and check that every file it lists exists.
Result<Manifest> read_manifest(const std::filesystem::path& directory);

// The large files of an engine that are not graphs: weights. Hashing one takes longer than starting a thread.
std::set<std::string> weight_files(const std::filesystem::path& directory, const Manifest& manifest);

// Check the SHA-256 of files of an engine.
[[nodiscard]] Result<void> verify_files(const std::filesystem::path& directory, const Manifest& manifest,
                                        const std::set<std::string>& names);

}  // namespace edgekiln
