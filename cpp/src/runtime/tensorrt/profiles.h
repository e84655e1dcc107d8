// Optimization profiles, inputs and outputs of a plan, checked against engine.json before the first run.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>
#include <vector>

#include "engine/manifest.h"
#include "util/result.h"

namespace edgekiln {

// An optimization profile: the range of tokens that one run of one sequence supports.
struct Profile {
  int index;
  std::int64_t min_tokens;
  std::int64_t max_tokens;
};

// The keys or the values of one layer: the names of input and output, and the shape of one token.
struct CachePart {
  std::string past;
  std::string present;
  std::int64_t heads;
  std::int64_t head_dim;
};

// Parts of all layers: keys of layer 0, values of layer 0, keys of layer 1, ...
std::vector<CachePart> cache_parts(const Manifest& manifest);

// Bytes of an element of the KV cache; 0 for a dtype that plans do not support.
std::size_t element_size(const KVCacheSpec& kv_cache);

// The plan's build in engine.json. Errors: Code::kEngine if engine.json names no plan for this library,
// Code::kUnsupported if the KV cache is not growing or the plan is weight-stripped.
Result<TensorRTBuild> check_layout(const Manifest& manifest);

// Check the inputs and outputs of a plan against engine.json; an error of Code::kEngine names the first mismatch.
[[nodiscard]] Result<void> check_plan(const nvinfer1::ICudaEngine& engine, const Manifest& manifest);

// The profiles that support a batch size of 1.
std::vector<Profile> read_profiles(const nvinfer1::ICudaEngine& engine, const GraphIO& io);

// Index of the profile with the smallest max_tokens that supports `tokens`; an error of Code::kEngine if none does.
Result<int> profile_for(const std::vector<Profile>& profiles, std::int64_t tokens);

// The message for a plan that TensorRT `version` refused on a GPU of compute capability `capability`, with `reason`.
std::string why_refused(const TensorRTBuild& build, const std::string& version, const std::string& capability,
                        const std::string& reason);

}  // namespace edgekiln
