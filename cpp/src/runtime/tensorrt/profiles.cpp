#include "runtime/tensorrt/profiles.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "util/str_cat.h"

namespace edgekiln {

namespace {

struct ElementType {
  nvinfer1::DataType type;
  std::size_t size;
};

std::optional<ElementType> element_type(const std::string& name) {
  static const std::map<std::string, ElementType> types{{"float32", {nvinfer1::DataType::kFLOAT, 4}},
                                                        {"float16", {nvinfer1::DataType::kHALF, 2}},
                                                        {"bfloat16", {nvinfer1::DataType::kBF16, 2}}};
  const auto found = types.find(name);
  return found == types.end() ? std::nullopt : std::optional(found->second);
}

template <typename Items, typename Text>
std::string joined(const Items& items, Text text) {
  std::string result;
  for (const auto& item : items) result += (result.empty() ? "" : ", ") + text(item);
  return result;
}

Result<void> check_part(const nvinfer1::ICudaEngine& engine, const CachePart& part, const std::string& name,
                        nvinfer1::DataType type) {
  const nvinfer1::Dims shape = engine.getTensorShape(name.c_str());
  if (shape.nbDims != 4 || shape.d[1] != part.heads || shape.d[2] != -1 || shape.d[3] != part.head_dim)
    return fail(Code::kEngine, "the plan's ", name, " is not the [-1, ", part.heads, ", -1, ", part.head_dim,
                "] that engine.json says: build the engine again");
  if (engine.getTensorDataType(name.c_str()) != type)
    return fail(Code::kEngine, "the plan's ", name,
                " is not of the type that engine.json says: build the engine again");
  return {};
}

}  // namespace

std::vector<CachePart> cache_parts(const Manifest& manifest) {
  const GraphIO& io = manifest.io;
  std::vector<CachePart> parts;
  for (std::size_t layer = 0; layer < manifest.architecture.kv_heads.size(); ++layer) {
    const std::int64_t heads = manifest.architecture.kv_heads[layer];
    const std::int64_t size = manifest.architecture.head_dims[layer];
    parts.push_back({in_layer(io.past_key, layer), in_layer(io.present_key, layer), heads, size});
    parts.push_back({in_layer(io.past_value, layer), in_layer(io.present_value, layer), heads, size});
  }
  return parts;
}

std::size_t element_size(const KVCacheSpec& kv_cache) {
  const auto type = element_type(kv_cache.dtype);
  return type ? type->size : 0;
}

Result<TensorRTBuild> check_layout(const Manifest& manifest) {
  if (!manifest.tensorrt || !manifest.graphs.contains("plan"))
    return fail(Code::kEngine, "engine.json names no plan for target ", manifest.target, ": build the engine again");
  if (!manifest.kv_cache.states.empty())
    return fail(Code::kUnsupported, "the engine has ", manifest.kv_cache.states.size(), " states, which this ",
                "library does not run on ", manifest.target, ": build it for ort-cpu or ort-cuda, or run it in Python");
  if (manifest.kv_cache.layout != "growing" || !element_type(manifest.kv_cache.dtype))
    return fail(Code::kUnsupported, "the engine's KV cache layout is ", manifest.kv_cache.layout, " ",
                manifest.kv_cache.dtype,
                ", this library runs growing, float32 or float16 or bfloat16: build the "
                "engine with --cache growing");
  if (manifest.tensorrt->library != "tensorrt")
    return fail(Code::kEngine, "the plan was built with ", manifest.tensorrt->library, ", target ", manifest.target,
                " runs tensorrt: build the engine again");
  if (manifest.tensorrt->weight_stripped)
    return fail(Code::kUnsupported,
                "the plan has no weights, and this library puts none in: build the engine without --strip-weights");
  return *manifest.tensorrt;
}

Result<void> check_plan(const nvinfer1::ICudaEngine& engine, const Manifest& manifest) {
  std::set<std::string> found;
  for (int index = 0; index < engine.getNbIOTensors(); ++index) found.insert(engine.getIOTensorName(index));
  std::vector<std::string> wanted{manifest.io.input_ids, manifest.io.position_ids, manifest.io.logits};
  const std::vector<CachePart> parts = cache_parts(manifest);
  for (const CachePart& part : parts) wanted.insert(wanted.end(), {part.past, part.present});
  for (const std::string& name : wanted)
    if (!found.contains(name))
      return fail(Code::kEngine, "the plan has no input or output ", name, ": build the engine again");
  const nvinfer1::DataType type = element_type(manifest.kv_cache.dtype)->type;
  for (const CachePart& part : parts)
    for (const std::string& name : {part.past, part.present})
      if (Result<void> checked = check_part(engine, part, name, type); !checked) return checked;
  return {};
}

std::vector<Profile> read_profiles(const nvinfer1::ICudaEngine& engine, const GraphIO& io) {
  using nvinfer1::OptProfileSelector;
  std::vector<Profile> profiles;
  for (int index = 0; index < engine.getNbOptimizationProfiles(); ++index) {
    const nvinfer1::Dims least = engine.getProfileShape(io.input_ids.c_str(), index, OptProfileSelector::kMIN);
    const nvinfer1::Dims most = engine.getProfileShape(io.input_ids.c_str(), index, OptProfileSelector::kMAX);
    if (least.nbDims == 2 && most.nbDims == 2 && least.d[0] <= 1) profiles.push_back({index, least.d[1], most.d[1]});
  }
  return profiles;
}

Result<int> profile_for(const std::vector<Profile>& profiles, std::int64_t tokens) {
  const Profile* closest = nullptr;
  for (const Profile& profile : profiles) {
    if (tokens < profile.min_tokens || tokens > profile.max_tokens) continue;
    if (!closest || profile.max_tokens < closest->max_tokens) closest = &profile;
  }
  if (closest) return closest->index;
  const std::string ranges =
      joined(profiles, [](const Profile& profile) { return str_cat(profile.min_tokens, " to ", profile.max_tokens); });
  return fail(Code::kEngine, "the plan takes ", ranges, " tokens a run, not ", tokens, ": build the engine again");
}

std::string why_refused(const TensorRTBuild& build, const std::string& version, const std::string& capability,
                        const std::string& reason) {
  if (build.version != version)
    return str_cat("the plan was built with ", build.library, " ", build.version, ", this machine has ", version,
                   ": build the engine again here, or install ", build.library, " ", build.version);
  const std::vector<std::string>& known = build.compute_capabilities;
  if (std::find(known.begin(), known.end(), capability) == known.end())
    return str_cat("the plan was built for compute capability ",
                   joined(known, [](const std::string& one) { return one; }), ", this GPU has ", capability,
                   ": build the engine on it");
  return str_cat(build.library, " ", version, " cannot load the plan (", reason, "): build the engine again");
}

}  // namespace edgekiln
