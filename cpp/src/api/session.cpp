#include "api/session.h"

#include <chrono>
#include <future>
#include <utility>

namespace edgekiln {

namespace {

using StepTimer = std::chrono::steady_clock;

double seconds_since(StepTimer::time_point start) {
  return std::chrono::duration<double>(StepTimer::now() - start).count();
}

Result<std::shared_ptr<const LoadedEngine>> load(std::shared_ptr<LoadedEngine> engine,
                                                 const std::filesystem::path& directory, const RuntimeOptions& options,
                                                 bool with_text) {
  engine->eos.insert(engine->manifest.tokens.eos.begin(), engine->manifest.tokens.eos.end());
  Result<std::unique_ptr<Runtime>> runtime = open_runtime(directory, engine->manifest, options);
  if (!runtime) return runtime.error();
  engine->runtime = std::move(runtime).value();
  engine->kernels = engine->runtime->kernels();
  if (with_text) {
    Result<std::unique_ptr<TextModel>> text = load_text_model(directory, engine->manifest);
    if (!text) return text.error();
    engine->text = std::move(text).value();
  }
  return std::shared_ptr<const LoadedEngine>(std::move(engine));
}

}  // namespace

Result<std::shared_ptr<const LoadedEngine>> LoadedEngine::open(const std::filesystem::path& directory,
                                                               const RuntimeOptions& options, bool verify,
                                                               bool with_text) {
  Result<Manifest> manifest = read_manifest(directory);
  if (!manifest) return manifest.error();
  auto engine = std::make_shared<LoadedEngine>();
  engine->manifest = std::move(manifest).value();
  if (!verify) return load(std::move(engine), directory, options, with_text);
  // Weights are only numbers to who loads them meanwhile, where a damaged graph might do anything.
  if (Result<void> graphs = verify_files(directory, engine->manifest, false); !graphs) return graphs.error();
  std::future<Result<void>> weights = std::async(
      std::launch::async, [&, checked = engine] { return verify_files(directory, checked->manifest, true); });
  Result<std::shared_ptr<const LoadedEngine>> loaded = load(std::move(engine), directory, options, with_text);
  // What is damaged explains what else went wrong.
  if (Result<void> sound = weights.get(); !sound) return sound.error();
  return loaded;
}

Result<const TextModel*> LoadedEngine::need_text() const {
  if (text) return text.get();
  return Error{Code::kRequest, "the engine was opened without its tokenizer: open it with text, or give token ids"};
}

// Marks a session as generating while it lives.
class EngineSession::Busy {
 public:
  explicit Busy(std::atomic<bool>& flag) : flag_(flag), mine_(!flag.exchange(true)) {}
  ~Busy() {
    if (mine_) flag_ = false;
  }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;

  bool mine() const { return mine_; }
  static Error elsewhere() {
    return {Code::kRequest, "the session is generating in another thread: give each thread a session of its own"};
  }

 private:
  std::atomic<bool>& flag_;
  const bool mine_;
};

EngineSession::EngineSession(std::shared_ptr<const LoadedEngine> engine)
    : engine_(std::move(engine)), cache_(engine_->runtime->new_cache()) {}

Result<Summary> EngineSession::generate(Ids prompt, const GenerateOptions& options,
                                        const std::function<bool(const Token&)>& take) {
  const StepTimer::time_point start = StepTimer::now();
  const Busy busy(busy_);
  if (!busy.mine()) return Busy::elsewhere();
  std::stop_source stop;
  {
    const std::lock_guard lock(mutex_);
    stop_ = stop;
  }
  Summary summary;
  summary.prompt_tokens = static_cast<std::int64_t>(prompt.size());
  summary.cached_tokens = shared_length(cache_->tokens(), prompt);
  const auto count = [&](const Token& token) {
    if (summary.generated_tokens++ == 0) summary.first_token_s = seconds_since(start);
    return take(token);
  };
  const std::unique_ptr<TextStream> text = engine_->text ? engine_->text->stream() : nullptr;
  const Result<Ending> ending = edgekiln::generate(*engine_->runtime, *cache_, text.get(), engine_->eos, prompt,
                                                   options, count, stop.get_token());
  if (!ending) return ending.error();
  summary.ending = ending.value();
  summary.total_s = seconds_since(start);
  return summary;
}

Result<void> EngineSession::reset() {
  const Busy busy(busy_);
  if (!busy.mine()) return Busy::elsewhere();
  cache_->rewind(0);
  return {};
}

void EngineSession::cancel() {
  const std::lock_guard lock(mutex_);
  stop_.request_stop();
}

}  // namespace edgekiln
