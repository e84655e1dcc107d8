// The C interface: arguments checked, exceptions kept in, errors put where edgekiln_error() finds them.
#include "edgekiln/edgekiln.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "api/session.h"
#include "util/str_cat.h"

struct edgekiln_engine {
  std::shared_ptr<const edgekiln::LoadedEngine> loaded;
};

struct edgekiln_session {
  edgekiln::EngineSession session;
};

namespace {

using namespace edgekiln;

thread_local std::string last_error;

edgekiln_status fail(const Error& error) {
  last_error = error.message;
  return static_cast<edgekiln_status>(error.code);
}

// Run `body`, which returns Result<void>, as a function of the C interface.
template <typename Body>
edgekiln_status guarded(Body body) noexcept {
  try {
    const Result<void> result = body();
    return result ? EDGEKILN_OK : fail(result.error());
  } catch (const std::bad_alloc&) {
    // Short enough for a string's own room: there may be no memory for more.
    last_error = "out of memory";
    return EDGEKILN_ERROR_MEMORY;
  } catch (const std::exception& error) {
    try {
      last_error = error.what();
    } catch (const std::bad_alloc&) {
      last_error = "out of memory";
    }
    return EDGEKILN_ERROR_INTERNAL;
  } catch (...) {
    last_error = "an error";
    return EDGEKILN_ERROR_INTERNAL;
  }
}

Error missing(std::string_view what) { return {Code::kRequest, sentence(what, " is NULL: give one")}; }

Result<GenerateOptions> convert(const edgekiln_generate_options* options) {
  GenerateOptions result;
  if (!options) return result;
  result.max_tokens = options->max_tokens;
  result.sampling.temperature = options->temperature;
  result.sampling.top_k = options->top_k;
  result.sampling.top_p = options->top_p;
  result.sampling.min_p = options->min_p;
  result.sampling.repetition_penalty = options->repetition_penalty;
  if (options->has_seed) result.sampling.seed = options->seed;
  if (options->stop_count && !options->stop) return missing("stop");
  for (std::size_t i = 0; i < options->stop_count; ++i) {
    if (!options->stop[i]) return missing("a stop string");
    result.stop.emplace_back(options->stop[i]);
  }
  result.ignore_eos = options->ignore_eos != 0;
  result.logprobs = options->logprobs != 0;
  result.speculate = options->speculate != 0;
  return result;
}

Result<std::vector<ChatMessage>> convert(const edgekiln_message* messages, std::size_t count) {
  if (count == 0) return Error{Code::kRequest, "the conversation is empty: give at least one message"};
  if (!messages) return missing("messages");
  std::vector<ChatMessage> result;
  for (std::size_t i = 0; i < count; ++i) {
    if (!messages[i].role || !messages[i].content) return missing("a message's role or content");
    result.push_back({messages[i].role, messages[i].content});
  }
  return result;
}

Result<std::vector<std::int64_t>> encode_chat(const LoadedEngine& engine, const edgekiln_message* messages,
                                              std::size_t count) {
  Result<const TextModel*> text = engine.need_text();
  if (!text) return text.error();
  Result<std::vector<ChatMessage>> converted = convert(messages, count);
  if (!converted) return converted.error();
  return text.value()->encode_chat(converted.value());
}

Result<std::vector<std::int64_t>> encode(const LoadedEngine& engine, const char* text, std::size_t length,
                                         bool add_special) {
  Result<const TextModel*> model = engine.need_text();
  if (!model) return model.error();
  if (!text && length) return missing("text");
  return model.value()->encode(std::string_view(text ? text : "", length), add_special);
}

Result<void> give(const Result<std::vector<std::int64_t>>& found, std::int64_t* ids, std::size_t capacity,
                  std::size_t* count) {
  if (!found) return found.error();
  if (!count) return missing("count");
  if (capacity && !ids) return missing("ids");
  *count = found.value().size();
  std::copy_n(found.value().begin(), std::min(capacity, *count), ids);
  return {};
}

Result<void> run(EngineSession& session, Ids prompt, const edgekiln_generate_options* options,
                 edgekiln_token_callback callback, void* user_data, edgekiln_summary* summary) {
  const Result<GenerateOptions> converted = convert(options);
  if (!converted) return converted.error();
  const auto take = [&](const Token& token) {
    if (!callback) return true;
    const double logprob = token.logprob.value_or(std::numeric_limits<double>::quiet_NaN());
    const edgekiln_token plain{token.id, token.text.c_str(), token.text.size(), logprob,
                               static_cast<edgekiln_finish>(token.finish)};
    return callback(&plain, user_data) == 0;
  };
  const Result<Summary> result = session.generate(prompt, converted.value(), take);
  if (!result) return result.error();
  const Summary& done = result.value();
  if (summary)
    *summary = {done.prompt_tokens,
                done.cached_tokens,
                done.generated_tokens,
                done.first_token_s,
                done.total_s,
                static_cast<edgekiln_finish>(done.ending.finish),
                done.ending.drafted_tokens,
                done.ending.accepted_tokens};
  return {};
}

}  // namespace

const char* edgekiln_version() { return EDGEKILN_VERSION; }

const char* edgekiln_error() { return last_error.c_str(); }

void edgekiln_engine_options_init(edgekiln_engine_options* options) {
  if (options) *options = {0, 0, 1, nullptr, 1, 1, nullptr};
}

edgekiln_status edgekiln_engine_open(const char* directory, const edgekiln_engine_options* options,
                                     edgekiln_engine** engine) {
  return guarded([&]() -> Result<void> {
    if (!engine) return missing("engine");
    *engine = nullptr;
    if (!directory) return missing("directory");
    edgekiln_engine_options chosen;
    edgekiln_engine_options_init(&chosen);
    if (options) chosen = *options;
    const RuntimeOptions runtime{chosen.threads, chosen.chunk, chosen.native != 0, chosen.kernels ? chosen.kernels : "",
                                 chosen.device ? chosen.device : ""};
    auto loaded = LoadedEngine::open(directory, runtime, chosen.verify != 0, chosen.text != 0);
    if (!loaded) return loaded.error();
    *engine = new edgekiln_engine{std::move(loaded).value()};
    return {};
  });
}

void edgekiln_engine_close(edgekiln_engine* engine) { delete engine; }

edgekiln_status edgekiln_engine_get_info(const edgekiln_engine* engine, edgekiln_engine_info* info) {
  return guarded([&]() -> Result<void> {
    if (!engine) return missing("engine");
    if (!info) return missing("info");
    const LoadedEngine& loaded = *engine->loaded;
    const Properties& properties = loaded.runtime->properties();
    *info = {loaded.manifest.name.c_str(), properties.target.c_str(),
             loaded.kernels.c_str(),       properties.vocab_size,
             properties.max_length,        loaded.runtime->threads(),
             loaded.text != nullptr,       loaded.text && loaded.text->has_chat()};
    return {};
  });
}

edgekiln_status edgekiln_tokenize(const edgekiln_engine* engine, const char* text, size_t text_length,
                                  int32_t add_special, int64_t* ids, size_t capacity, size_t* count) {
  return guarded([&]() -> Result<void> {
    if (!engine) return missing("engine");
    return give(encode(*engine->loaded, text, text_length, add_special != 0), ids, capacity, count);
  });
}

edgekiln_status edgekiln_tokenize_chat(const edgekiln_engine* engine, const edgekiln_message* messages,
                                       size_t message_count, int64_t* ids, size_t capacity, size_t* count) {
  return guarded([&]() -> Result<void> {
    if (!engine) return missing("engine");
    return give(encode_chat(*engine->loaded, messages, message_count), ids, capacity, count);
  });
}

edgekiln_status edgekiln_detokenize(const edgekiln_engine* engine, const int64_t* ids, size_t count, char* text,
                                    size_t capacity, size_t* length) {
  return guarded([&]() -> Result<void> {
    if (!engine) return missing("engine");
    if (count && !ids) return missing("ids");
    if (!length) return missing("length");
    if (capacity && !text) return missing("text");
    Result<const TextModel*> model = engine->loaded->need_text();
    if (!model) return model.error();
    const std::string decoded = model.value()->decode(Ids(ids, count));
    *length = decoded.size();
    std::copy_n(decoded.data(), std::min(capacity, decoded.size()), text);
    return {};
  });
}

edgekiln_status edgekiln_session_create(const edgekiln_engine* engine, edgekiln_session** session) {
  return guarded([&]() -> Result<void> {
    if (!session) return missing("session");
    *session = nullptr;
    if (!engine) return missing("engine");
    *session = new edgekiln_session{EngineSession(engine->loaded)};
    return {};
  });
}

void edgekiln_session_free(edgekiln_session* session) { delete session; }

edgekiln_status edgekiln_session_reset(edgekiln_session* session) {
  return guarded([&]() -> Result<void> {
    if (!session) return missing("session");
    return session->session.reset();
  });
}

void edgekiln_session_cancel(edgekiln_session* session) {
  if (session) session->session.cancel();
}

void edgekiln_generate_options_init(edgekiln_generate_options* options) {
  if (options) *options = {256, 0.0, 0, 1.0, 0.0, 1.0, 0, 0, nullptr, 0, 0, 0, 1};
}

edgekiln_status edgekiln_generate_options_of(const edgekiln_engine* engine, edgekiln_generate_options* options) {
  return guarded([&]() -> Result<void> {
    if (!engine) return missing("engine");
    if (!options) return missing("options");
    edgekiln_generate_options_init(options);
    const SamplingOptions sampling = SamplingOptions::from_defaults(engine->loaded->manifest.sampling);
    options->temperature = sampling.temperature;
    options->top_k = sampling.top_k;
    options->top_p = sampling.top_p;
    options->min_p = sampling.min_p;
    options->repetition_penalty = sampling.repetition_penalty;
    return {};
  });
}

edgekiln_status edgekiln_generate(edgekiln_session* session, const int64_t* ids, size_t count,
                                  const edgekiln_generate_options* options, edgekiln_token_callback callback,
                                  void* user_data, edgekiln_summary* summary) {
  return guarded([&]() -> Result<void> {
    if (!session) return missing("session");
    if (count && !ids) return missing("ids");
    return run(session->session, Ids(ids, count), options, callback, user_data, summary);
  });
}

edgekiln_status edgekiln_generate_text(edgekiln_session* session, const char* text, size_t text_length,
                                       const edgekiln_generate_options* options, edgekiln_token_callback callback,
                                       void* user_data, edgekiln_summary* summary) {
  return guarded([&]() -> Result<void> {
    if (!session) return missing("session");
    if (!text_length) return Error{Code::kRequest, "prompt is empty: give some text"};
    const auto ids = encode(session->session.engine(), text, text_length, true);
    if (!ids) return ids.error();
    return run(session->session, ids.value(), options, callback, user_data, summary);
  });
}

edgekiln_status edgekiln_generate_chat(edgekiln_session* session, const edgekiln_message* messages,
                                       size_t message_count, const edgekiln_generate_options* options,
                                       edgekiln_token_callback callback, void* user_data, edgekiln_summary* summary) {
  return guarded([&]() -> Result<void> {
    if (!session) return missing("session");
    const auto ids = encode_chat(session->session.engine(), messages, message_count);
    if (!ids) return ids.error();
    return run(session->session, ids.value(), options, callback, user_data, summary);
  });
}
