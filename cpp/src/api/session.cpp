#include "api/session.h"

#include <chrono>
#include <utility>

namespace edgekiln {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

// Marks the session as busy for the lifetime of this object.
class EngineSession::Busy {
 public:
  explicit Busy(std::atomic<bool>& flag) : flag_(flag), mine_(!flag.exchange(true)) {}
  ~Busy() {
    if (mine_) flag_ = false;
  }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;

  bool mine() const { return mine_; }
  static Failure in_use() {
    return fail(Code::kRequest, "the session is generating in another thread: give each thread a session of its own");
  }

 private:
  std::atomic<bool>& flag_;
  const bool mine_;
};

EngineSession::EngineSession(std::shared_ptr<const LoadedEngine> engine)
    : engine_(std::move(engine)), cache_(engine_->runtime->new_cache()) {}

Result<Summary> EngineSession::generate(Ids prompt, const GenerateOptions& options, const OnToken& on_token) {
  return run([prompt](const EncodeLimits&) { return prompt; }, options, on_token);
}

Result<Summary> EngineSession::generate(const Encode& encode, const GenerateOptions& options, const OnToken& on_token) {
  std::vector<std::int64_t> ids;
  const auto prompt = [&](const EncodeLimits& limits) -> Result<Ids> {
    Result<std::vector<std::int64_t>> found = encode(limits);
    if (!found) return std::unexpected(found.error());
    ids = std::move(found).value();
    return Ids(ids);
  };
  return run(prompt, options, on_token);
}

Result<Summary> EngineSession::run(const std::function<Result<Ids>(const EncodeLimits&)>& encode,
                                   const GenerateOptions& options, const OnToken& on_token) {
  const Clock::time_point start = Clock::now();
  const Busy busy(busy_);
  if (!busy.mine()) return Busy::in_use();
  std::stop_source stop;
  {
    const std::lock_guard lock(mutex_);
    stop_ = stop;
  }
  const Properties& properties = engine_->runtime->properties();
  const Result<Ids> prompt = encode({properties.max_length, stop.get_token(), properties.length_advice});
  if (!prompt) return std::unexpected(prompt.error());
  Summary summary;
  summary.prompt_tokens = static_cast<std::int64_t>(prompt->size());
  summary.cached_tokens = cache_->rewindable(shared_length(cache_->tokens(), *prompt));
  const auto count = [&](const Token& token) {
    if (summary.generated_tokens++ == 0) summary.first_token_s = seconds_since(start);
    return on_token(token);
  };
  const std::unique_ptr<TextStream> text = text_stream(options);
  const Result<Finish> finish = edgekiln::generate(*engine_->runtime, *cache_, text.get(), engine_->eos, *prompt,
                                                   options, count, stop.get_token());
  if (!finish) return std::unexpected(finish.error());
  summary.finish = *finish;
  summary.total_s = seconds_since(start);
  return summary;
}

std::unique_ptr<TextStream> EngineSession::text_stream(const GenerateOptions& options) const {
  if (!engine_->text) return nullptr;
  // Only kShow shows the token that ends the answer.
  const bool show = options.ignore_eos || options.special_tokens == SpecialTokensChoice::kShow;
  return engine_->text->stream(options.special_tokens, show ? std::set<std::int64_t>() : engine_->eos);
}

Result<void> EngineSession::reset() {
  const Busy busy(busy_);
  if (!busy.mine()) return Busy::in_use();
  cache_->rewind(0);
  return {};
}

void EngineSession::cancel() {
  const std::lock_guard lock(mutex_);
  stop_.request_stop();
}

}  // namespace edgekiln
