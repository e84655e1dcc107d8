#include "api/loaded_engine.h"

#include <chrono>
#include <future>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "engine/packed_directory.h"

namespace edgekiln {

namespace {

Result<std::shared_ptr<const LoadedEngine>> load(std::shared_ptr<LoadedEngine> engine,
                                                 const std::filesystem::path& directory, const RuntimeOptions& options,
                                                 bool with_text) {
  engine->eos.insert(engine->manifest.special_tokens.eos.begin(), engine->manifest.special_tokens.eos.end());
  Result<std::unique_ptr<Runtime>> runtime = open_runtime(directory, engine->manifest, options);
  if (!runtime) return std::unexpected(runtime.error());
  engine->runtime = std::move(runtime).value();
  engine->kernels = engine->runtime->kernels();
  if (with_text) {
    Result<std::unique_ptr<TextModel>> text = load_text_model(directory, engine->manifest);
    if (!text) return std::unexpected(text.error());
    engine->text = std::move(text).value();
  }
  return std::shared_ptr<const LoadedEngine>(std::move(engine));
}

// The states of files that any later write changes.
std::map<std::string, FileState> settled_states(const std::filesystem::path& directory,
                                                const std::set<std::string>& names) {
  using std::chrono::nanoseconds;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  std::map<std::string, FileState> states;
  for (const std::string& name : names)
    if (const std::optional<FileState> state = file_state(directory / name);
        state && state->is_settled(std::chrono::duration_cast<nanoseconds>(now).count()))
      states.emplace(name, *state);
  return states;
}

// Where a large file was hashed, `verified` gets the states of all of them.
Result<std::shared_ptr<const LoadedEngine>> load_verified(std::shared_ptr<LoadedEngine> engine,
                                                          const std::filesystem::path& directory,
                                                          const RuntimeOptions& options, bool with_text,
                                                          std::map<std::string, FileState>& verified) {
  // Graphs are verified before they are parsed. Weights are plain numbers, so they are verified while they are loaded.
  std::set<std::string> weights = weight_files(directory, engine->manifest), others;
  for (const auto& [name, sha256] : engine->manifest.files)
    if (!weights.contains(name)) others.insert(name);
  if (Result<void> graphs = verify_files(directory, engine->manifest, others); !graphs)
    return std::unexpected(graphs.error());
  const std::map<std::string, FileState> states = settled_states(directory, weights);
  if (options.pack_cache != PackCacheUse::kOff)
    std::erase_if(weights, [&](const std::string& name) {
      return is_verified(directory, name, engine->manifest.files.at(name));
    });
  std::future<Result<void>> hashed = std::async(
      std::launch::async, [&, checked = engine] { return verify_files(directory, checked->manifest, weights); });
  Result<std::shared_ptr<const LoadedEngine>> loaded = load(std::move(engine), directory, options, with_text);
  // A damaged file explains any other failure, so it is reported first.
  if (Result<void> sound = hashed.get(); !sound) return std::unexpected(sound.error());
  if (!weights.empty()) verified = states;
  return loaded;
}

// Checks that a directory still has the engine whose manifest was read, after its files were loaded.
Result<void> check_unchanged(const std::filesystem::path& directory, const Manifest& manifest) {
  Result<Manifest> now = read_manifest(directory);
  if (!now) return std::unexpected(now.error());
  if (now->files != manifest.files)
    return fail(Code::kEngine, directory.string(),
                " was replaced by another engine while it was in use: open it again");
  return {};
}

}  // namespace

Result<std::shared_ptr<const LoadedEngine>> LoadedEngine::open(const std::filesystem::path& directory,
                                                               const RuntimeOptions& options, bool verify,
                                                               bool with_text) {
  Result<Manifest> manifest = read_manifest(directory);
  if (!manifest) return std::unexpected(manifest.error());
  auto engine = std::make_shared<LoadedEngine>();
  engine->manifest = std::move(manifest).value();
  std::map<std::string, FileState> verified;
  Result<std::shared_ptr<const LoadedEngine>> loaded =
      verify ? load_verified(engine, directory, options, with_text, verified)
             : load(engine, directory, options, with_text);
  // An engine that was replaced explains any other failure, so it is reported first.
  if (Result<void> same = check_unchanged(directory, engine->manifest); !same) return std::unexpected(same.error());
  if (!loaded) return loaded;
  (*loaded)->runtime->keep_packed_weights();
  if (options.pack_cache != PackCacheUse::kOff) record_verified(directory, engine->manifest.files, verified);
  return loaded;
}

Result<const TextModel*> LoadedEngine::need_text() const {
  if (text) return text.get();
  return fail(Code::kRequest, "the engine was opened without its tokenizer: open it with text, or give token ids");
}

}  // namespace edgekiln
