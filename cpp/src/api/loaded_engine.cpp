#include "api/loaded_engine.h"

#include <future>
#include <utility>

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

Result<std::shared_ptr<const LoadedEngine>> load_verified(std::shared_ptr<LoadedEngine> engine,
                                                          const std::filesystem::path& directory,
                                                          const RuntimeOptions& options, bool with_text) {
  // Graphs are verified before they are parsed. Weights are plain numbers, so they are verified while they are loaded.
  if (Result<void> graphs = verify_files(directory, engine->manifest, /*weights=*/false); !graphs)
    return std::unexpected(graphs.error());
  std::future<Result<void>> weights = std::async(std::launch::async, [&, checked = engine] {
    return verify_files(directory, checked->manifest, /*weights=*/true);
  });
  Result<std::shared_ptr<const LoadedEngine>> loaded = load(std::move(engine), directory, options, with_text);
  // A damaged file explains any other failure, so it is reported first.
  if (Result<void> sound = weights.get(); !sound) return std::unexpected(sound.error());
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
  Result<std::shared_ptr<const LoadedEngine>> loaded =
      verify ? load_verified(engine, directory, options, with_text) : load(engine, directory, options, with_text);
  // An engine that was replaced explains any other failure, so it is reported first.
  if (Result<void> same = check_unchanged(directory, engine->manifest); !same) return std::unexpected(same.error());
  return loaded;
}

Result<const TextModel*> LoadedEngine::need_text() const {
  if (text) return text.get();
  return fail(Code::kRequest, "the engine was opened without its tokenizer: open it with text, or give token ids");
}

}  // namespace edgekiln
