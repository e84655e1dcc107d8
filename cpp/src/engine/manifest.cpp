#include "engine/manifest.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/file.h"
#include "engine/record.h"
#include "engine/sha256.h"
#include "util/str_cat.h"

namespace edgekiln {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kEngineFile[] = "engine.json";
// More than any model has; products of these fit in 64 bits.
constexpr std::int64_t kMostLayers = 1 << 16;
constexpr std::int64_t kLargestSize = std::int64_t{1} << 24;
constexpr std::int64_t kLargestVocabulary = std::int64_t{1} << 31;

Architecture read_architecture(Record record, std::string& complaint) {
  Architecture result;
  result.model_type = record.text("model_type");
  result.vocab_size = record.integer("vocab_size", 1);
  record.integer("hidden_size", 1);
  result.layers = record.integer("layers", 1);
  record.integer("heads", 1);
  result.kv_heads = record.integers("kv_heads", 1);
  result.head_dims = record.integers("head_dims", 1);
  result.max_length = record.integer("max_length", 1);
  record.integer("parameters", 1);
  record.finish();
  if (!complaint.empty()) return result;
  const auto layers = static_cast<std::size_t>(result.layers);
  if (result.layers > kMostLayers || result.kv_heads.size() != layers || result.head_dims.size() != layers) {
    complaint = sentence("architecture: ", result.layers, " layers have ", result.kv_heads.size(), " kv_heads and ",
                         result.head_dims.size(), " head_dims");
    return result;
  }
  for (std::size_t layer = 0; layer < layers; ++layer)
    if (result.kv_heads[layer] > kLargestSize || result.head_dims[layer] > kLargestSize)
      complaint = sentence("architecture: layer ", layer, " has keys of ", result.kv_heads[layer], " times ",
                           result.head_dims[layer]);
  if (result.vocab_size > kLargestVocabulary || result.max_length > kLargestVocabulary)
    complaint = sentence("architecture: a vocabulary of ", result.vocab_size, " for ", result.max_length, " positions");
  return result;
}

GraphIO read_io(Record record) {
  GraphIO io;
  for (auto [name, field] : {std::pair{"input_ids", &io.input_ids},
                             {"position_ids", &io.position_ids},
                             {"logits", &io.logits},
                             {"past_key", &io.past_key},
                             {"past_value", &io.past_value},
                             {"present_key", &io.present_key},
                             {"present_value", &io.present_value}})
    *field = record.text_or(name, *field);
  io.total_length = record.optional_text("total_length");
  io.logits_start = record.optional_text("logits_start");
  record.finish();
  return io;
}

KeyValueLayout read_kv(Record record, std::string& complaint) {
  KeyValueLayout kv{record.text("kind"), record.text("dtype")};
  record.finish();
  if (!complaint.empty()) return kv;
  if (kv.kind != "shared-buffer" && kv.kind != "growing" && kv.kind != "inplace")
    complaint = sentence("kv.kind: ", kv.kind, " is not known");
  if (kv.dtype != "float32" && kv.dtype != "float16" && kv.dtype != "bfloat16" && kv.dtype != "int8")
    complaint = sentence("kv.dtype: ", kv.dtype, " is not known");
  return kv;
}

TensorRTBuild read_tensorrt(Record record) {
  TensorRTBuild build;
  build.library = record.text("library");
  build.version = record.text("version");
  build.compute_capabilities = record.words("compute_capabilities");
  record.integer("max_batch", 1);
  record.integer("chunk", 1);
  build.stripped = record.boolean_or("stripped", false);
  record.skip("options");
  record.finish();
  return build;
}

SpecialTokens read_tokens(Record record) {
  SpecialTokens tokens;
  tokens.bos = record.optional_integer("bos");
  tokens.eos = record.integers_or_none("eos");
  tokens.pad = record.optional_integer("pad");
  tokens.add_bos = record.boolean_or("add_bos", false);
  record.finish();
  return tokens;
}

SamplingDefaults read_sampling(Record record) {
  SamplingDefaults sampling;
  sampling.temperature = record.optional_number("temperature");
  sampling.top_k = record.optional_integer("top_k");
  sampling.top_p = record.optional_number("top_p");
  sampling.min_p = record.optional_number("min_p");
  sampling.repetition_penalty = record.optional_number("repetition_penalty");
  record.finish();
  return sampling;
}

std::string read_scheme(Record record) {
  std::string scheme = record.text("scheme");
  record.optional_integer("group_size");
  record.finish();
  return scheme;
}

Manifest read_fields(const json& value, std::string& complaint) {
  Record record(value, "", complaint);
  Manifest manifest;
  record.integer("schema_version");
  manifest.name = record.text("name");
  manifest.source = record.text("source");
  manifest.target = record.text("target");
  manifest.architecture = read_architecture(record.record("architecture"), complaint);
  manifest.graphs = record.texts("graphs");
  manifest.io = read_io(record.record("io", false));
  manifest.kv = read_kv(record.record("kv"), complaint);
  if (record.has("tensorrt")) manifest.tensorrt = read_tensorrt(record.record("tensorrt"));
  manifest.scheme = read_scheme(record.record("quantization"));
  manifest.tokens = read_tokens(record.record("tokens"));
  manifest.sampling = read_sampling(record.record("sampling"));
  record.texts("versions");
  manifest.files = record.texts("files");
  record.finish();
  return manifest;
}

constexpr std::uintmax_t kLarge = 16 << 20;  // of a file that takes longer to check than a thread to start

bool is_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

Result<void> check_files(const fs::path& directory, const Manifest& manifest) {
  for (const auto& [name, _] : manifest.files) {
    const fs::path file = directory / name;
    std::error_code ignored;
    if (!is_file_name(name) || !fs::is_regular_file(file, ignored))
      return Error{Code::kEngine, sentence(file.string(), " is missing from the engine: build it again")};
  }
  return {};
}

}  // namespace

std::string in_layer(std::string name, std::size_t layer) {
  constexpr std::string_view kLayer = "{layer}";
  if (const auto at = name.find(kLayer); at != std::string::npos) name.replace(at, kLayer.size(), sentence(layer));
  return name;
}

Result<Manifest> parse_manifest(std::string_view text, std::string_view path) {
  const json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return damaged_file(path, "it is not JSON");
  if (!value.is_object()) return damaged_file(path, "it is not an object");
  const auto version = value.find("schema_version");
  if (version == value.end()) return damaged_file(path, "schema_version: it is missing");
  if (!version->is_number_integer()) return damaged_file(path, "schema_version: it is not an integer");
  const bool huge = version->is_number_unsigned() && version->get<std::uint64_t>() > 1'000'000;
  if (huge || version->get<std::int64_t>() > kSchemaVersion)
    return Error{Code::kUnsupported, sentence(path, " has schema version ", version->dump(),
                                              ", this edgekiln reads up to ", kSchemaVersion, ": upgrade edgekiln")};
  std::string complaint;
  Manifest manifest = read_fields(value, complaint);
  if (!complaint.empty()) return damaged_file(path, complaint);
  for (const auto& [role, name] : manifest.graphs)
    if (!manifest.files.contains(name))
      return Error{Code::kEngine, sentence(path, " names ", name, " as its ", role,
                                           " graph but lists no such file: build the engine again")};
  return manifest;
}

Result<Manifest> read_manifest(const fs::path& directory) {
  std::error_code ignored;
  const fs::path path = directory / kEngineFile;
  if (!fs::is_directory(directory, ignored))
    return Error{Code::kEngine, sentence("no engine directory at ", directory.string(),
                                         ": build one with `edgekiln engine MODEL -o ", directory.string(), "`")};
  if (!fs::is_regular_file(path, ignored))
    return Error{Code::kEngine,
                 sentence(directory.string(), " has no ", kEngineFile, ", so it is not an engine directory")};
  const Result<std::string> text = read_file(path, "check its permissions");
  if (!text) return text.error();
  Result<Manifest> manifest = parse_manifest(text.value(), path.string());
  if (!manifest) return manifest;
  if (Result<void> checked = check_files(directory, manifest.value()); !checked) return checked.error();
  return manifest;
}

Result<void> verify_files(const fs::path& directory, const Manifest& manifest, bool weights) {
  for (const auto& [name, expected] : manifest.files) {
    const fs::path file = directory / name;
    std::error_code ignored;
    const bool is_graph = std::any_of(manifest.graphs.begin(), manifest.graphs.end(),
                                      [&name](const auto& graph) { return graph.second == name; });
    if ((!is_graph && fs::file_size(file, ignored) > kLarge) != weights) continue;
    const Result<std::string> actual = sha256(file);
    if (!actual) return actual.error();
    if (actual.value() != expected)
      return Error{Code::kEngine,
                   sentence(file.string(), " is damaged or was edited (its SHA-256 differs): build the engine again")};
  }
  return {};
}

}  // namespace edgekiln
