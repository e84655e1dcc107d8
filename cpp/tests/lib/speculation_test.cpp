// Speculative decoding changes no token, whatever is drafted, however an answer ends and whatever the run times are.
#include "generate/speculation.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "generate/generate.h"
#include "generate/prompt_lookup.h"

namespace {

using namespace edgekiln;

using Tokens = std::vector<std::int64_t>;

constexpr std::int64_t kVocabulary = 16;
constexpr std::int64_t kMaxLength = 200;
constexpr std::size_t kMaxVerifyTokens = 8;

Tokens list(Ids ids) { return {ids.begin(), ids.end()}; }

// The finalizer of SplitMix64.
std::uint64_t mixed(std::uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9U;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBU;
  return value ^ (value >> 31);
}

class FakeKVCache final : public KVCache {
 public:
  using KVCache::KVCache;
  std::vector<float> logits;

 private:
  Result<void> grow(std::int64_t) override { return {}; }
};

// The logits of a position are a function of the ids up to it: a pattern of five tokens with occasional deviations.
class FakeRuntime final : public Runtime {
 public:
  explicit FakeRuntime(const Manifest& manifest) : Runtime(manifest) {}

  std::string kernels() const override { return "fake"; }
  int threads() const override { return 1; }
  std::unique_ptr<KVCache> new_cache() const override { return std::make_unique<FakeKVCache>(properties()); }
  std::size_t max_verify_tokens() const override { return kMaxVerifyTokens; }

  Result<Logits> append(KVCache& cache, Ids tokens, const std::stop_token&) const override {
    return Result<Logits>(run(cache, tokens).last(static_cast<std::size_t>(kVocabulary)));
  }

  Result<Logits> verify(KVCache& cache, Ids tokens, const std::stop_token&) const override {
    REQUIRE(tokens.size() <= kMaxVerifyTokens);
    REQUIRE(cache.length() + static_cast<std::int64_t>(tokens.size()) < kMaxLength);
    longest = std::max(longest, tokens.size());
    ++runs;
    // The time of a run does not depend on the number of tokens, so that drafting pays.
    std::this_thread::sleep_for(std::chrono::microseconds(200));
    return run(cache, tokens);
  }

  mutable std::size_t longest = 0;
  mutable std::int64_t runs = 0;

 private:
  static Logits run(KVCache& cache, Ids tokens) {
    auto& own = static_cast<FakeKVCache&>(cache);
    REQUIRE(own.reserve(own.length() + static_cast<std::int64_t>(tokens.size())));
    own.logits.clear();
    for (const std::int64_t& token : tokens) {
      own.append(Ids(&token, 1));
      std::uint64_t state = 0;
      for (const std::int64_t id : own.tokens()) state = mixed(state + static_cast<std::uint64_t>(id) + 1);
      const std::int64_t likely = state % 8 == 0 ? static_cast<std::int64_t>(state >> 8) % 3 : own.length() % 5 + 3;
      for (std::int64_t id = 0; id < kVocabulary; ++id)
        own.logits.push_back(static_cast<float>(mixed(state + static_cast<std::uint64_t>(id)) % 1000) / 500 +
                             (id == likely ? 4.0F : 0.0F));
    }
    return own.logits;
  }
};

Manifest manifest() {
  Manifest manifest;
  manifest.architecture.vocab_size = kVocabulary;
  manifest.architecture.max_length = kMaxLength;
  return manifest;
}

// One letter a token.
class Letters final : public TextStream {
 public:
  std::string push(std::int64_t token) override { return std::string(1, static_cast<char>('a' + token)); }
  std::string flush() override { return {}; }
  std::string token_bytes(std::int64_t token) const override { return std::string(1, static_cast<char>('a' + token)); }
  std::string end_within(std::int64_t, std::size_t) override { return {}; }
};

struct Answer {
  Tokens ids;
  Tokens held;
  std::optional<Finish> finish;
};

// `refuse_after`: number of tokens after which the callback cancels.
Answer answer(const FakeRuntime& runtime, Ids prompt, const GenerateOptions& options,
              const std::set<std::int64_t>& eos = {}, std::size_t refuse_after = kMaxLength) {
  Letters text;
  Answer result;
  const std::unique_ptr<KVCache> cache = runtime.new_cache();
  const auto on_token = [&](const Token& token) {
    result.ids.push_back(token.id);
    return result.ids.size() < refuse_after;
  };
  const Result<Finish> finish = generate(runtime, *cache, &text, eos, prompt, options, on_token, {});
  if (finish)
    result.finish = *finish;
  else
    REQUIRE(finish.error().code == Code::kCancelled);
  result.held = list(cache->tokens());
  return result;
}

const Tokens kPrompt{1, 4, 5, 6, 7, 3, 4, 5, 6, 7, 3, 4, 5};

GenerateOptions options_of(double temperature, bool speculate) {
  GenerateOptions options;
  options.max_tokens = 120;
  options.sampling.temperature = temperature;
  options.sampling.top_p = 0.9;
  options.sampling.repetition_penalty = 1.05;
  options.sampling.seed = 7;
  options.speculate = speculate;
  return options;
}

// Check that speculation gives the same tokens, and that the cache then holds all of them but the last.
Answer same(const FakeRuntime& runtime, GenerateOptions options, const std::set<std::int64_t>& eos = {},
            std::size_t refuse_after = kMaxLength) {
  options.speculate = false;
  const Answer plain = answer(runtime, kPrompt, options, eos, refuse_after);
  options.speculate = true;
  const Answer drafted = answer(runtime, kPrompt, options, eos, refuse_after);
  CHECK(drafted.ids == plain.ids);
  CHECK(drafted.finish.has_value() == plain.finish.has_value());
  Tokens given = kPrompt;
  given.insert(given.end(), drafted.ids.begin(), drafted.ids.end() - 1);
  CHECK((drafted.held == given && plain.held == given));
  if (plain.finish) {
    CHECK(plain.finish->speculation.drafted == 0);
    CHECK(plain.finish->reason == drafted.finish->reason);
  }
  return drafted;
}

TEST_CASE("tokens are those of decoding without drafts") {
  const FakeRuntime runtime(manifest());
  for (const double temperature : {0.0, 0.8, 1.5}) {
    // Where other programs disturb the measured times of runs, an answer may draft nothing.
    std::int64_t accepted = 0;
    for (int attempt = 0; attempt < 50 && !accepted; ++attempt) {
      const Answer drafted = same(runtime, options_of(temperature, true));
      const std::int64_t runs = std::exchange(runtime.runs, 0);
      accepted = drafted.finish->speculation.accepted;
      CHECK(drafted.finish->speculation.drafted >= accepted);
      // Every token but the first took a run of its own or was an accepted draft.
      CHECK(runs + accepted == static_cast<std::int64_t>(drafted.ids.size()) - 1);
    }
    CHECK(accepted > 0);
  }
  CHECK(runtime.longest > 2);
}

TEST_CASE("answers end inside a draft") {
  const FakeRuntime runtime(manifest());
  for (const double temperature : {0.0, 0.8}) {
    GenerateOptions options = options_of(temperature, true);
    for (std::size_t size = 1; size < 60; ++size) {
      CHECK_FALSE(same(runtime, options, {}, size).finish);
      options.max_tokens = static_cast<std::int64_t>(size);
      CHECK(same(runtime, options).ids.size() == size);
      options.max_tokens = 120;
    }
    for (std::int64_t eos = 0; eos < 8; ++eos)
      CHECK(same(runtime, options, {eos}).finish->reason == FinishReason::kEos);
    for (const char* stop : {"fg", "gh", "hd", "de", "ef", "efgh"}) {
      options.stop = {stop};
      same(runtime, options);
    }
  }
}

TEST_CASE("a draft does not exceed the engine's max_length") {
  const FakeRuntime runtime(manifest());
  GenerateOptions options = options_of(0, true);
  options.max_tokens = 1000;
  const Answer drafted = same(runtime, options);
  CHECK(drafted.finish->reason == FinishReason::kLength);
  CHECK(kPrompt.size() + drafted.ids.size() == static_cast<std::size_t>(kMaxLength));
}

// Brute-force lookup: tries every position, from the last to the first.
Tokens looked_up(const Tokens& tokens, std::size_t max_draft) {
  for (const std::size_t size : {3U, 2U})
    for (std::size_t end = tokens.size(); end-- > size;)
      if (std::equal(tokens.end() - static_cast<std::ptrdiff_t>(size), tokens.end(),
                     tokens.begin() + static_cast<std::ptrdiff_t>(end - size)))
        return {tokens.begin() + static_cast<std::ptrdiff_t>(end),
                tokens.begin() + static_cast<std::ptrdiff_t>(std::min(end + max_draft, tokens.size()))};
  return {};
}

TEST_CASE("drafts are the tokens after the last occurrence") {
  CHECK(PromptLookup(Tokens{}).draft(7).empty());
  CHECK(list(PromptLookup(Tokens{5, 5, 5}).draft(7)) == Tokens{5});
  CHECK(list(PromptLookup(Tokens{1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3}).draft(3)) == (Tokens{4, 9, 2}));
  std::uint64_t state = 1;
  for (int sequence = 0; sequence < 50; ++sequence) {
    Tokens tokens;
    PromptLookup lookup(tokens);
    for (int size = 0; size < 60; ++size) {
      state = mixed(state + 1);
      tokens.push_back(static_cast<std::int64_t>(state % 4));
      lookup.append(tokens.back());
      for (const std::size_t most : {0U, 1U, 7U}) CHECK(list(lookup.draft(most)) == looked_up(tokens, most));
    }
  }
}

// Simulated runs: every draft is found, `accepted` of its tokens are accepted, and each adds `added` steps of time.
struct Run {
  std::size_t plain = 0;
  std::size_t drafted = 0;
  std::size_t longest = 0;
  double seconds = 0;
  double tokens = 0;
};

Run run(Speculation& speculation, std::size_t runs, double added, std::size_t accepted) {
  Run result;
  for (std::size_t i = 0; i < runs; ++i) {
    const std::size_t length = speculation.draft_length();
    const std::size_t given = std::min(length, accepted);
    const double seconds = 0.004 * (1 + added * static_cast<double>(length));
    speculation.observe(length, given, seconds);
    ++(length ? result.drafted : result.plain);
    result.longest = std::max(result.longest, length);
    result.seconds += seconds;
    result.tokens += static_cast<double>(given + 1);
  }
  return result;
}

TEST_CASE("the draft length follows the measured times") {
  Speculation speculation(kMaxVerifyTokens - 1);
  CHECK(speculation.draft_length() == 0);
  // All accepted, at a tenth of a step each.
  CHECK(run(speculation, 50, 0.1, 7).longest == 7);
  CHECK(run(speculation, 10, 0.1, 7).plain == 0);
  // None accepted: soon only trials are drafted, and their cost is bounded.
  run(speculation, 50, 0.1, 0);
  const Run refused = run(speculation, 1000, 0.1, 0);
  CHECK((refused.drafted > 0 && refused.longest <= 3));
  CHECK(refused.seconds < 1.035 * 0.004 * refused.tokens);
  // All accepted again: the trials notice it.
  run(speculation, 100, 0.1, 7);
  CHECK(run(speculation, 10, 0.1, 7).longest == 7);
  // Verifying a token takes longer than a step of its own.
  run(speculation, 50, 1.2, 7);
  const Run slow = run(speculation, 2000, 1.2, 7);
  CHECK(slow.drafted <= 20);
}

}  // namespace
