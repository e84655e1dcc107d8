// The C API's functions on engines.
#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "api/c_handles.h"
#include "api/c_status.h"
#include "api/c_structs.h"

namespace {

using namespace edgekiln;

constexpr edgekiln_engine_options kEngineDefaults{
    sizeof(edgekiln_engine_options), 0, 0, EDGEKILN_KERNELS_EDGEKILN, nullptr, nullptr, 1, 1, 1, 0};

Result<RuntimeOptions> convert(const edgekiln_engine_options& options) {
  const int kernels = enum_value(options.kernels);
  if (kernels != EDGEKILN_KERNELS_EDGEKILN && kernels != EDGEKILN_KERNELS_ONNXRUNTIME)
    return fail(Code::kRequest,
                "kernels must be EDGEKILN_KERNELS_EDGEKILN (0) or EDGEKILN_KERNELS_ONNXRUNTIME (1), got ", kernels);
  return RuntimeOptions{options.threads,
                        options.chunk,
                        static_cast<KernelsChoice>(kernels),
                        options.kernels_library ? options.kernels_library : "",
                        options.device ? options.device : "",
                        !options.pack_cache ? PackCacheUse::kOff
                        : options.verify    ? PackCacheUse::kWrite
                                            : PackCacheUse::kRead};
}

// Write at most `capacity` ids and the number of all.
Result<void> copy_ids(const Result<std::vector<std::int64_t>>& found, std::int64_t* ids, std::size_t capacity,
                      std::size_t* count) {
  if (!found) return std::unexpected(found.error());
  if (!count) return null_argument("count");
  if (capacity && !ids) return null_argument("ids");
  *count = found->size();
  std::copy_n(found->begin(), std::min(capacity, *count), ids);
  return {};
}

}  // namespace

void edgekiln_engine_options_init_sized(edgekiln_engine_options* options, size_t struct_size) {
  if (options) write_struct(options, kEngineDefaults, struct_size);
}

edgekiln_status edgekiln_engine_open(const char* directory, const edgekiln_engine_options* options,
                                     edgekiln_engine** engine) {
  return guarded([&]() -> Result<void> {
    if (!engine) return null_argument("engine");
    *engine = nullptr;
    if (!directory) return null_argument("directory");
    if (!*directory) return fail(Code::kRequest, "the path of the engine is empty: give its directory");
    edgekiln_engine_options chosen = kEngineDefaults;
    if (options) {
      const Result<edgekiln_engine_options> read = read_struct(options, kEngineDefaults, kEngineOptionsKind);
      if (!read) return std::unexpected(read.error());
      chosen = *read;
    }
    const Result<RuntimeOptions> runtime = convert(chosen);
    if (!runtime) return std::unexpected(runtime.error());
    auto loaded = LoadedEngine::open(directory, *runtime, chosen.verify != 0, chosen.text != 0);
    if (!loaded) return std::unexpected(loaded.error());
    *engine = new edgekiln_engine{*std::move(loaded)};
    return {};
  });
}

void edgekiln_engine_close(edgekiln_engine* engine) { delete engine; }

edgekiln_status edgekiln_engine_get_info(const edgekiln_engine* engine, edgekiln_engine_info* info) {
  return guarded([&]() -> Result<void> {
    if (!engine) return null_argument("engine");
    if (!info) return null_argument("info");
    const Result<std::size_t> size = struct_size_of(info, kEngineInfoKind);
    if (!size) return std::unexpected(size.error());
    const LoadedEngine& loaded = *engine->loaded;
    const Properties& properties = loaded.runtime->properties();
    edgekiln_engine_info value{};
    value.name = loaded.manifest.name.c_str();
    value.target = properties.target.c_str();
    value.kernels = loaded.kernels.c_str();
    value.vocab_size = properties.vocab_size;
    value.max_length = properties.max_length;
    value.threads = loaded.runtime->threads();
    value.max_verify_tokens = static_cast<std::int32_t>(loaded.runtime->max_verify_tokens());
    value.has_text = loaded.text != nullptr;
    value.has_chat = loaded.text && loaded.text->has_chat();
    write_struct(info, value, *size);
    return {};
  });
}

edgekiln_status edgekiln_tokenize(const edgekiln_engine* engine, const char* text, size_t text_length,
                                  int32_t add_special, int64_t* ids, size_t capacity, size_t* count) {
  return guarded([&]() -> Result<void> {
    if (!engine) return null_argument("engine");
    return copy_ids(encode(*engine->loaded, text, text_length, add_special != 0, {}), ids, capacity, count);
  });
}

edgekiln_status edgekiln_tokenize_chat(const edgekiln_engine* engine, const edgekiln_message* messages,
                                       size_t message_count, int64_t* ids, size_t capacity, size_t* count) {
  return guarded([&]() -> Result<void> {
    if (!engine) return null_argument("engine");
    return copy_ids(encode_chat(*engine->loaded, messages, message_count, {}), ids, capacity, count);
  });
}

edgekiln_status edgekiln_tokenize_parts(const edgekiln_engine* engine, const edgekiln_prompt_part* parts,
                                        size_t part_count, int64_t* ids, size_t capacity, size_t* count) {
  return guarded([&]() -> Result<void> {
    if (!engine) return null_argument("engine");
    return copy_ids(encode_parts(*engine->loaded, parts, part_count, {}), ids, capacity, count);
  });
}

edgekiln_status edgekiln_detokenize(const edgekiln_engine* engine, const int64_t* ids, size_t count, char* text,
                                    size_t capacity, size_t* length) {
  return guarded([&]() -> Result<void> {
    if (!engine) return null_argument("engine");
    if (count && !ids) return null_argument("ids");
    if (!length) return null_argument("length");
    if (capacity && !text) return null_argument("text");
    const Result<const TextModel*> model = engine->loaded->need_text();
    if (!model) return std::unexpected(model.error());
    const Result<void> known = check_vocabulary(Ids(ids, count), engine->loaded->runtime->properties().vocab_size);
    if (!known) return known;
    const std::string decoded = (*model)->decode(Ids(ids, count));
    *length = decoded.size();
    std::copy_n(decoded.data(), std::min(capacity, decoded.size()), text);
    return {};
  });
}
