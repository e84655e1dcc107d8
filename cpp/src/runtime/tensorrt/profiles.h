// What a plan takes, read from it and checked before anything runs.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>
#include <vector>

#include "engine/manifest.h"
#include "util/result.h"

namespace edgekiln {

// An optimization profile: the least and the most that one run of one row takes.
struct Profile {
  int index;
  std::int64_t least_tokens;
  std::int64_t most_tokens;
};

// Keys, or values, of one layer: the graph's names for them, and elements of a token.
struct CachePart {
  std::string past;
  std::string present;
  std::int64_t heads;
  std::int64_t head_dim;
};

// Keys and values of each layer, in order.
std::vector<CachePart> cache_parts(const Manifest& manifest);

// Bytes of an element of the cache; 0 if the type is none that a plan has.
std::size_t element_size(const KVCacheLayout& kv);

// What engine.json says of the plan; an error of Code::kEngine or Code::kUnsupported if this adapter does not run that.
Result<TensorRTBuild> check_layout(const Manifest& manifest);

// Whether a plan is what engine.json says, by its inputs and outputs; an error of Code::kEngine names the first that is
// not.
Result<void> check_plan(const nvinfer1::ICudaEngine& engine, const Manifest& manifest);

// The profiles that take single rows.
std::vector<Profile> read_profiles(const nvinfer1::ICudaEngine& engine, const GraphIO& io);

// Of the profiles that take `tokens`, the one for the fewest, which fits closest.
Result<int> profile_for(const std::vector<Profile>& profiles, std::int64_t tokens);

// One sentence on a plan that TensorRT `version` did not take on a GPU of `capability`, where it said `reason`.
std::string why_refused(const TensorRTBuild& build, const std::string& version, const std::string& capability,
                        const std::string& reason);

}  // namespace edgekiln
