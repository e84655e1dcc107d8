#include "engine/manifest.h"

#include <algorithm>
#include <functional>
#include <initializer_list>
#include <limits>
#include <numeric>
#include <utility>

#include "engine/file.h"
#include "engine/sha256.h"
#include "util/json_reader.h"
#include "util/str_cat.h"

namespace edgekiln {

namespace {

namespace fs = std::filesystem;

constexpr char kEngineFile[] = "engine.json";
constexpr char kTokenizerFile[] = "tokenizer.json";
// Above any model's sizes, and small enough that buffer sizes computed from them fit in 64 bits.
constexpr std::int64_t kMaxLayers = 1 << 16;  // decoder layers, KV cache layers, and states
constexpr std::int64_t kMaxSize = std::int64_t{1} << 24;
constexpr std::int64_t kMaxVocabulary = std::int64_t{1} << 31;
constexpr std::int64_t kMaxStateElements = std::int64_t{1} << 28;
constexpr std::size_t kMaxStateSizes = 8;

Architecture read_architecture(JsonObject object) {
  Architecture result;
  result.model_type = object.string("model_type");
  result.vocab_size = object.integer("vocab_size", 1);
  object.integer("hidden_size", 1);
  result.layers = object.integer("layers", 1);
  object.integer("heads", 0);
  result.kv_heads = object.integers("kv_heads", 1);
  result.head_dims = object.integers("head_dims", 1);
  result.max_length = object.integer("max_length", 1);
  result.context_length = object.optional_integer("context_length", 1);
  object.integer("parameters", 1);
  object.refuse_unknown_keys();
  const std::size_t layers = result.kv_heads.size();
  if (result.layers > kMaxLayers || layers > kMaxLayers || result.head_dims.size() != layers)
    damaged(str_cat("architecture: ", result.layers, " layers have ", result.kv_heads.size(), " kv_heads and ",
                    result.head_dims.size(), " head_dims"));
  for (std::size_t layer = 0; layer < layers; ++layer)
    if (result.kv_heads[layer] > kMaxSize || result.head_dims[layer] > kMaxSize)
      damaged(str_cat("architecture: KV cache layer ", layer, " has keys of ", result.kv_heads[layer], " times ",
                      result.head_dims[layer]));
  if (result.vocab_size > kMaxVocabulary || result.max_length > kMaxVocabulary)
    damaged(str_cat("architecture: a vocabulary of ", result.vocab_size, " for ", result.max_length, " positions"));
  return result;
}

// The string at `key`, which must be one of `allowed`.
std::string one_of(JsonObject& object, const char* key, std::initializer_list<std::string_view> allowed) {
  std::string value = object.string(key);
  if (std::find(allowed.begin(), allowed.end(), value) == allowed.end())
    object.refuse(key, shown(value) + " is not known");
  return value;
}

StateSpec read_state(JsonObject object, const std::string& path) {
  StateSpec state;
  state.shape = object.integers("shape", 1);
  state.dtype = one_of(object, "dtype", {"float32", "float16", "bfloat16"});
  object.refuse_unknown_keys();
  const std::vector<std::int64_t>& shape = state.shape;
  if (shape.size() > kMaxStateSizes) damaged(str_cat(path, ": it has ", shape.size(), " sizes"));
  std::int64_t room = kMaxStateElements;  // elements that the sizes so far leave room for
  for (const std::int64_t size : shape) room /= size;
  if (room == 0) {
    std::string sizes;
    for (const std::int64_t size : shape) sizes += str_cat(sizes.empty() ? "" : " times ", size);
    damaged(str_cat(path, ": it has ", sizes, " elements"));
  }
  return state;
}

KVCacheSpec read_kv_cache(JsonObject object) {
  KVCacheSpec kv_cache;
  kv_cache.layout = one_of(object, "layout", {"shared-buffer", "growing", "in-place"});
  kv_cache.dtype = one_of(object, "dtype", {"float32", "float16", "bfloat16", "int8"});
  kv_cache.windows = object.integers_or_empty("windows", 0);
  kv_cache.recompute_beyond = object.optional_integer("recompute_beyond", 1);
  object.each_object("states", [&](JsonObject state) {
    const std::string path = str_cat("kv_cache.states.", kv_cache.states.size());
    kv_cache.states.push_back(read_state(std::move(state), path));
  });
  object.refuse_unknown_keys();
  const std::vector<std::int64_t>& windows = kv_cache.windows;
  const std::int64_t largest = windows.empty() ? 0 : *std::max_element(windows.begin(), windows.end());
  if (largest && kv_cache.layout != "shared-buffer")
    damaged(str_cat("kv_cache: layout ", kv_cache.layout, " has no windows"));
  if (largest > kMaxVocabulary) damaged(str_cat("kv_cache: a window of ", largest, " tokens"));
  if (kv_cache.states.size() > kMaxLayers) damaged(str_cat("kv_cache: ", kv_cache.states.size(), " states"));
  return kv_cache;
}

TensorRTBuild read_tensorrt(JsonObject object) {
  TensorRTBuild build;
  build.library = one_of(object, "library", {"tensorrt", "tensorrt_rtx"});
  build.version = object.string("version");
  build.compute_capabilities = object.strings("compute_capabilities");
  object.integer("max_batch", 1);
  object.integer("prefill_chunk", 1);
  build.weight_stripped = object.boolean_or("weight_stripped", false);
  object.strings_or_empty("options");
  object.refuse_unknown_keys();
  return build;
}

SpecialTokens read_special_tokens(JsonObject object) {
  SpecialTokens tokens;
  tokens.bos = object.optional_integer("bos", 0);
  tokens.eos = object.integers_or_empty("eos", 0);
  tokens.pad = object.optional_integer("pad", 0);
  tokens.add_bos = object.boolean_or("add_bos", false);
  // Of the Jinja template, which this library does not read.
  if (std::optional<JsonObject> variables = object.optional_object("template_variables"))
    for (const std::string& name : variables->keys()) variables->text_or_texts(name);
  object.refuse_unknown_keys();
  return tokens;
}

SamplingDefaults read_sampling(JsonObject object) {
  SamplingDefaults sampling;
  const auto number = [&object](const char* key, double least, double most, std::string_view reason) {
    const std::optional<double> value = object.optional_number(key);
    if (value && !(*value >= least && *value <= most)) object.refuse(key, reason);
    return value;
  };
  using Limits = std::numeric_limits<double>;
  sampling.temperature = number("temperature", 0, Limits::max(), "it is not 0 or more");
  sampling.top_k = object.optional_integer("top_k", 0);
  sampling.top_p = number("top_p", 0, 1, "it is not from 0 to 1");
  sampling.min_p = number("min_p", 0, 1, "it is not from 0 to 1");
  sampling.repetition_penalty =
      number("repetition_penalty", Limits::denorm_min(), Limits::max(), "it is not more than 0");
  object.refuse_unknown_keys();
  return sampling;
}

std::string read_scheme(JsonObject object) {
  std::string scheme = object.string("scheme");
  object.optional_integer("group_size", 1);
  object.refuse_unknown_keys();
  return scheme;
}

Result<void> check_schema_version(JsonObject& root, std::string_view path) {
  const std::int64_t version = root.integer("schema_version");
  if (version == kSchemaVersion) return {};
  return fail(Code::kUnsupported, path, " has schema version ", version, ", this edgekiln reads version ",
              kSchemaVersion, ": ", version < kSchemaVersion ? "build the engine again" : "upgrade edgekiln");
}

Manifest read_fields(JsonObject& root) {
  Manifest manifest;
  manifest.name = root.string("name");
  manifest.source = root.string("source");
  manifest.target = root.string("target");
  manifest.architecture = read_architecture(root.object("architecture"));
  manifest.graphs = root.string_map("graphs");
  if (std::optional<JsonObject> io = root.optional_object("io")) manifest.io = read_graph_io(*std::move(io));
  manifest.kv_cache = read_kv_cache(root.object("kv_cache"));
  if (std::optional<JsonObject> build = root.optional_object("tensorrt"))
    manifest.tensorrt = read_tensorrt(*std::move(build));
  manifest.scheme = read_scheme(root.object("quantization"));
  manifest.special_tokens = read_special_tokens(root.object("special_tokens"));
  manifest.sampling = read_sampling(root.object("sampling"));
  root.string_map("versions");
  manifest.files = root.string_map("files");
  root.refuse_unknown_keys();
  return manifest;
}

// Checks across the fields of the outermost object.
Result<void> check_parts(const Manifest& manifest, std::string_view path) {
  std::vector<std::int64_t> ids;
  if (manifest.special_tokens.bos) ids.push_back(*manifest.special_tokens.bos);
  ids.insert(ids.end(), manifest.special_tokens.eos.begin(), manifest.special_tokens.eos.end());
  if (manifest.special_tokens.pad) ids.push_back(*manifest.special_tokens.pad);
  for (const std::int64_t id : ids)
    if (id >= manifest.architecture.vocab_size)
      damaged(str_cat("special_tokens: ", id, " is not below the vocabulary of ", manifest.architecture.vocab_size));
  const std::vector<std::int64_t>& windows = manifest.kv_cache.windows;
  if (!windows.empty() && windows.size() != manifest.architecture.kv_heads.size())
    damaged(str_cat("kv_cache: ", windows.size(), " windows for ", manifest.architecture.kv_heads.size(),
                    " KV cache layers"));
  if (std::any_of(windows.begin(), windows.end(), [](std::int64_t window) { return window != 0; }) &&
      !manifest.io.window_start)
    damaged("io.window_start: it is missing");
  if (manifest.kv_cache.recompute_beyond && !manifest.io.sequence_length) damaged("io.sequence_length: it is missing");
  if (!manifest.kv_cache.recompute_beyond && manifest.io.sequence_length)
    damaged("kv_cache.recompute_beyond: it is missing");
  if (!manifest.graphs.contains("generate") && !manifest.graphs.contains("plan"))
    damaged("graphs: generate is missing");
  if (!manifest.files.contains(kTokenizerFile)) damaged(str_cat("files: ", kTokenizerFile, " is missing"));
  for (const auto& [role, name] : manifest.graphs)
    if (!manifest.files.contains(name))
      return fail(Code::kEngine, path, " names ", shown(name), " as its ", shown(role),
                  " graph but lists no such file: build the engine again");
  return {};
}

// Bytes from which hashing a file takes longer than starting a thread.
constexpr std::uintmax_t kLargeFile = 16 << 20;

bool is_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

Result<void> check_files(const fs::path& directory, const Manifest& manifest) {
  for (const auto& [name, _] : manifest.files) {
    const fs::path file = directory / name;
    std::error_code ignored;
    if (!is_file_name(name) || !fs::is_regular_file(file, ignored))
      return fail(Code::kEngine, directory.string(), '/', shown(name), " is missing from the engine: build it again");
  }
  return {};
}

}  // namespace

std::string Architecture::length_advice() const {
  if (context_length && max_length >= *context_length) return "shorten it, as the model holds no more";
  return "shorten it or build the engine with a larger --max-length";
}

std::int64_t StateSpec::elements() const {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

Result<Manifest> parse_manifest(std::string_view text, std::string_view path) {
  return read_checked(path, [&]() -> Result<Manifest> {
    const JsonDocument document = parse_json(text);
    JsonObject root(*document, "");
    if (const Result<void> checked = check_schema_version(root, path); !checked)
      return std::unexpected(checked.error());
    Manifest manifest = read_fields(root);
    if (const Result<void> checked = check_parts(manifest, path); !checked) return std::unexpected(checked.error());
    return manifest;
  });
}

Result<Manifest> read_manifest(const fs::path& directory) {
  std::error_code ignored;
  const fs::path path = directory / kEngineFile;
  if (!fs::is_directory(directory, ignored))
    return fail(Code::kEngine, "no engine directory at ", directory.string(),
                ": build one with `edgekiln engine MODEL -o ", directory.string(), "`");
  if (!fs::is_regular_file(path, ignored))
    return fail(Code::kEngine, directory.string(), " has no ", kEngineFile, ", so it is not an engine directory");
  const Result<std::string> text = read_file(path, "check its permissions");
  if (!text) return std::unexpected(text.error());
  Result<Manifest> manifest = parse_manifest(text.value(), path.string());
  if (!manifest) return manifest;
  if (Result<void> checked = check_files(directory, manifest.value()); !checked)
    return std::unexpected(checked.error());
  return manifest;
}

std::set<std::string> weight_files(const fs::path& directory, const Manifest& manifest) {
  std::set<std::string> names;
  for (const auto& [name, _] : manifest.files) {
    std::error_code ignored;
    const bool is_graph = std::any_of(manifest.graphs.begin(), manifest.graphs.end(),
                                      [&name](const auto& graph) { return graph.second == name; });
    if (!is_graph && fs::file_size(directory / name, ignored) > kLargeFile) names.insert(name);
  }
  return names;
}

Result<void> verify_files(const fs::path& directory, const Manifest& manifest, const std::set<std::string>& names) {
  for (const std::string& name : names) {
    const fs::path file = directory / name;
    const Result<std::string> actual = sha256(file);
    if (!actual) return std::unexpected(actual.error());
    if (actual.value() != manifest.files.at(name))
      return fail(Code::kEngine, file.string(),
                  " is damaged or was edited (its SHA-256 differs): build the engine again");
  }
  return {};
}

}  // namespace edgekiln
