#include "generate/generate.h"

#include <algorithm>
#include <utility>

#include "generate/answer_text.h"
#include "util/str_cat.h"

namespace edgekiln {

namespace {

// Tracks the text of an answer and decides when it ends.
class Answer {
 public:
  Answer(TextStream* text, const std::set<std::int64_t>& eos, const GenerateOptions& options, std::int64_t room)
      : text_(text, options.stop), eos_(eos), ignore_eos_(options.ignore_eos) {
    left_ = std::min(options.max_tokens, room);
  }

  // `complete`: nothing may follow the token.
  Token add(const Choice& choice, bool complete) {
    --left_;
    AnswerText::Piece piece = text_.push(choice.token);
    FinishReason reason = FinishReason::kNone;
    if (is_end(choice.token))
      reason = FinishReason::kEos;  // also if a stop string ends in it
    else if (piece.stopped || complete)
      reason = FinishReason::kStop;
    else if (left_ == 0)
      reason = FinishReason::kLength;
    if (reason != FinishReason::kNone && !piece.stopped) {
      const AnswerText::Piece rest = text_.flush();
      piece.text += rest.text;
      if (rest.stopped && reason == FinishReason::kLength) reason = FinishReason::kStop;
    }
    return {choice.token, std::move(piece.text), choice.logprob, reason};
  }

  // Whether a token ends the answer whatever its text.
  bool is_end(std::int64_t token) const { return !ignore_eos_ && eos_.contains(token); }

  // Number of tokens that may still follow.
  std::int64_t left() const { return left_; }

 private:
  AnswerText text_;
  const std::set<std::int64_t>& eos_;
  const bool ignore_eos_;
  std::int64_t left_;
};

[[nodiscard]] Result<void> check_prompt(Ids prompt, const Properties& properties) {
  if (Result<void> checked = check_ids(prompt, properties); !checked) return checked;
  const auto size = static_cast<std::int64_t>(prompt.size());
  if (size == properties.max_length)
    return fail(Code::kRequest, "prompt has ", size, " tokens, which leaves no room for an answer in the ",
                properties.max_length, " the engine holds: ", properties.length_advice);
  return {};
}

// Rewind the cache to the prefix that it shares with `prompt`, as far as it can keep it. Returns the rest of the
// prompt, at least one token.
Ids reuse_prefix(KVCache& cache, Ids prompt) {
  const std::int64_t kept = cache.rewind(shared_length(cache.tokens(), prompt));
  return prompt.subspan(static_cast<std::size_t>(kept));
}

}  // namespace

std::int64_t shared_length(Ids held, Ids prompt) {
  const std::size_t most = prompt.empty() ? 0 : std::min(held.size(), prompt.size() - 1);
  return std::mismatch(held.begin(), held.begin() + static_cast<std::ptrdiff_t>(most), prompt.begin()).first -
         held.begin();
}

Result<void> GenerateOptions::check() const {
  if (max_tokens < 1) return fail(Code::kRequest, "max_tokens must be at least 1, got ", max_tokens);
  if (std::any_of(stop.begin(), stop.end(), [](const std::string& one) { return one.empty(); }))
    return fail(Code::kRequest, "stop must be strings that are not empty");
  return sampling.check();
}

Result<Finish> generate(const Runtime& runtime, KVCache& cache, TextStream* text, const std::set<std::int64_t>& eos,
                        Ids prompt, const GenerateOptions& options, const std::function<bool(const Token&)>& on_token,
                        const std::stop_token& cancel) {
  if (Result<void> checked = options.check(); !checked) return std::unexpected(checked.error());
  if (!text && !options.stop.empty())
    return fail(Code::kRequest, "stop strings need the engine's tokenizer: open the engine with it");
  if (Result<void> checked = check_prompt(prompt, runtime.properties()); !checked)
    return std::unexpected(checked.error());
  Sampler sampler(options.sampling);
  sampler.observe(prompt);
  Answer answer(text, eos, options, runtime.properties().max_length - static_cast<std::int64_t>(prompt.size()));
  SpeculativeDecoder decoder(runtime, cache, prompt, options.speculate);
  Result<Logits> logits = runtime.append(cache, reuse_prefix(cache, prompt), cancel);
  if (!logits) return std::unexpected(logits.error());
  TokenMask mask(options.mask, logits->size());
  Result<bool> more = mask.ask();
  if (!more) return std::unexpected(more.error());
  if (!*more) return Finish{FinishReason::kStop, decoder.stats()};
  while (logits.has_value()) {
    const Result<Choice> choice = sampler.sample(logits.value(), options.logprobs, mask.words());
    if (!choice) return std::unexpected(choice.error());
    if (!answer.is_end(choice->token)) {
      mask.append(choice->token);
      more = mask.ask();
      if (!more) return std::unexpected(more.error());
    }
    const Token token = answer.add(choice.value(), !*more);
    if (!on_token(token)) return fail(Code::kCancelled, "the answer was cancelled");
    if (token.finish_reason != FinishReason::kNone) return Finish{token.finish_reason, decoder.stats()};
    logits = decoder.step(token.id, answer.left(), cancel);
  }
  return std::unexpected(logits.error());
}

}  // namespace edgekiln
