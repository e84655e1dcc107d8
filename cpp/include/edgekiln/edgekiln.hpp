// The C++ API of libedgekiln, for C++17 and later: a header-only wrapper of the C API that owns its handles.
//
//   const auto engine = edgekiln::Engine::open("engines/smollm2-135m-int8");
//   if (!engine) return report(engine.error().message);
//   const auto answer = engine->generate("Once upon a time");
//
// Functions that can fail return Expected. Nothing throws, apart from allocations of the standard library and from
// token callbacks: an exception of a callback cancels the answer and propagates to the caller.
#pragma once

#include <edgekiln/edgekiln.h>

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace edgekiln {

// One sentence with the offending value and the fix.
struct Failure {
  edgekiln_status status;
  std::string message;
};

// A value or a failure, like std::expected of C++23.
template <typename T>
class [[nodiscard]] Expected {
 public:
  Expected(T value) : content_(std::in_place_index<0>, std::move(value)) {}
  Expected(Failure failure) : content_(std::in_place_index<1>, std::move(failure)) {}

  bool has_value() const { return content_.index() == 0; }
  explicit operator bool() const { return has_value(); }

  // Precondition: has_value().
  T& value() { return *std::get_if<0>(&content_); }
  const T& value() const { return *std::get_if<0>(&content_); }
  T& operator*() { return value(); }
  const T& operator*() const { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  // Precondition: !has_value().
  const Failure& error() const { return *std::get_if<1>(&content_); }

 private:
  std::variant<T, Failure> content_;
};

// See edgekiln_kernels_choice.
enum class Kernels { edgekiln = EDGEKILN_KERNELS_EDGEKILN, onnxruntime = EDGEKILN_KERNELS_ONNXRUNTIME };

// See edgekiln_engine_options.
struct EngineOptions {
  int threads = 0;
  std::int64_t chunk = 0;
  Kernels kernels = Kernels::edgekiln;
  std::string kernels_library;
  std::string device;
  bool verify = true;
  bool text = true;
};

// See edgekiln_generate_options. Engine::generate_options() has the model's recommended sampling.
struct GenerateOptions {
  std::int64_t max_tokens = 256;
  double temperature = 0;
  std::int64_t top_k = 0;
  double top_p = 1;
  double min_p = 0;
  double repetition_penalty = 1;
  std::optional<std::uint64_t> seed;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  bool logprobs = false;
  bool speculate = true;
};

// See edgekiln_engine_info.
struct EngineInfo {
  std::string name;
  std::string target;
  std::string kernels;
  std::int64_t vocab_size;
  std::int64_t max_length;
  int threads;
  int max_verify_tokens;
  bool has_text;
  bool has_chat;
};

struct Message {
  std::string role;
  std::string content;
};

// See edgekiln_token. `text` is valid until the callback returns.
struct Token {
  std::int64_t id;
  std::string_view text;
  double logprob;
  edgekiln_finish_reason finish_reason;
};

struct Answer {
  std::string text;
  edgekiln_summary summary;
};

// Called with each token; returning false cancels.
using TokenCallback = std::function<bool(const Token&)>;

namespace detail {

inline Failure failure(edgekiln_status status) { return {status, edgekiln_error()}; }

// The edgekiln_token_callback that collects the answer's text and calls a TokenCallback.
struct TokenSink {
  const TokenCallback& on_token;
  std::string text;
  std::exception_ptr exception;

  static int call(const edgekiln_token* token, void* user_data) noexcept {
    auto& self = *static_cast<TokenSink*>(user_data);
    try {
      const std::string_view text(token->text, token->text_length);
      self.text += text;
      return self.on_token && !self.on_token({token->id, text, token->logprob, token->finish_reason});
    } catch (...) {
      self.exception = std::current_exception();
      return 1;
    }
  }
};

inline std::vector<edgekiln_message> to_c(const std::vector<Message>& messages) {
  std::vector<edgekiln_message> result;
  result.reserve(messages.size());
  for (const Message& message : messages)
    result.push_back(edgekiln_message EDGEKILN_MESSAGE(message.role.c_str(), message.content.c_str()));
  return result;
}

// `stop` receives the pointers that the result refers to.
inline edgekiln_generate_options to_c(const GenerateOptions& options, std::vector<const char*>& stop) {
  for (const std::string& text : options.stop) stop.push_back(text.c_str());
  edgekiln_generate_options result;
  edgekiln_generate_options_init(&result);
  result.max_tokens = options.max_tokens;
  result.temperature = options.temperature;
  result.top_k = options.top_k;
  result.top_p = options.top_p;
  result.min_p = options.min_p;
  result.repetition_penalty = options.repetition_penalty;
  result.has_seed = options.seed.has_value();
  result.seed = options.seed.value_or(0);
  result.stop = stop.data();
  result.stop_count = stop.size();
  result.ignore_eos = options.ignore_eos;
  result.logprobs = options.logprobs;
  result.speculate = options.speculate;
  return result;
}

}  // namespace detail

// One conversation. It keeps its engine's weights alive. Not thread-safe except for cancel().
class Session {
 public:
  Expected<Answer> generate(const std::vector<std::int64_t>& ids, const GenerateOptions& options = {},
                            const TokenCallback& on_token = {}) {
    return run(options, on_token,
               [&](auto... rest) { return edgekiln_generate(handle_.get(), ids.data(), ids.size(), rest...); });
  }

  Expected<Answer> generate(std::string_view prompt, const GenerateOptions& options = {},
                            const TokenCallback& on_token = {}) {
    return run(options, on_token, [&](auto... rest) {
      return edgekiln_generate_text(handle_.get(), prompt.data(), prompt.size(), rest...);
    });
  }

  // Pass the whole conversation each time: only its new part is computed.
  Expected<Answer> chat(const std::vector<Message>& messages, const GenerateOptions& options = {},
                        const TokenCallback& on_token = {}) {
    const std::vector<edgekiln_message> plain = detail::to_c(messages);
    return run(options, on_token, [&](auto... rest) {
      return edgekiln_generate_chat(handle_.get(), plain.data(), plain.size(), rest...);
    });
  }

  // Cancel the current call of generate or chat. Thread-safe.
  void cancel() { edgekiln_session_cancel(handle_.get()); }

  // Drop all tokens. No effect while another thread generates in this session.
  void reset() { static_cast<void>(edgekiln_session_reset(handle_.get())); }

 private:
  friend class Engine;
  explicit Session(edgekiln_session* handle) : handle_(handle, &edgekiln_session_free) {}

  template <typename Call>
  Expected<Answer> run(const GenerateOptions& options, const TokenCallback& on_token, Call call) {
    std::vector<const char*> stop;
    const edgekiln_generate_options plain = detail::to_c(options, stop);
    detail::TokenSink sink{on_token, {}, {}};
    edgekiln_summary summary;
    edgekiln_summary_init(&summary);
    const edgekiln_status status = call(&plain, &detail::TokenSink::call, static_cast<void*>(&sink), &summary);
    if (sink.exception) std::rethrow_exception(sink.exception);
    if (status != EDGEKILN_OK) return detail::failure(status);
    return Answer{std::move(sink.text), summary};
  }

  std::unique_ptr<edgekiln_session, decltype(&edgekiln_session_free)> handle_;
};

// A loaded engine. Thread-safe.
class Engine {
 public:
  static Expected<Engine> open(const std::string& directory, const EngineOptions& options = {}) {
    edgekiln_engine_options plain;
    edgekiln_engine_options_init(&plain);
    plain.threads = options.threads;
    plain.chunk = options.chunk;
    plain.kernels = static_cast<edgekiln_kernels_choice>(options.kernels);
    if (!options.kernels_library.empty()) plain.kernels_library = options.kernels_library.c_str();
    if (!options.device.empty()) plain.device = options.device.c_str();
    plain.verify = options.verify;
    plain.text = options.text;
    edgekiln_engine* handle = nullptr;
    const edgekiln_status status = edgekiln_engine_open(directory.c_str(), &plain, &handle);
    if (status != EDGEKILN_OK) return detail::failure(status);
    return Engine(handle);
  }

  EngineInfo info() const {
    edgekiln_engine_info info;
    edgekiln_engine_info_init(&info);
    static_cast<void>(edgekiln_engine_get_info(handle_.get(), &info));
    return {info.name,         info.target,  info.kernels,           info.vocab_size,
            info.max_length,   info.threads, info.max_verify_tokens, info.has_text != 0,
            info.has_chat != 0};
  }

  // Defaults with the sampling that the model's generation_config recommends.
  GenerateOptions generate_options() const {
    edgekiln_generate_options plain;
    edgekiln_generate_options_init(&plain);
    static_cast<void>(edgekiln_engine_get_sampling(handle_.get(), &plain));
    GenerateOptions options;
    options.temperature = plain.temperature;
    options.top_k = plain.top_k;
    options.top_p = plain.top_p;
    options.min_p = plain.min_p;
    options.repetition_penalty = plain.repetition_penalty;
    return options;
  }

  // Generate an answer in a session of its own. Use session() for a conversation, which reuses its KV cache.
  Expected<Answer> generate(std::string_view prompt, const GenerateOptions& options = {},
                            const TokenCallback& on_token = {}) const {
    Expected<Session> own = session();
    if (!own) return own.error();
    return own->generate(prompt, options, on_token);
  }

  Expected<Answer> generate(const std::vector<std::int64_t>& ids, const GenerateOptions& options = {},
                            const TokenCallback& on_token = {}) const {
    Expected<Session> own = session();
    if (!own) return own.error();
    return own->generate(ids, options, on_token);
  }

  Expected<Answer> chat(const std::vector<Message>& messages, const GenerateOptions& options = {},
                        const TokenCallback& on_token = {}) const {
    Expected<Session> own = session();
    if (!own) return own.error();
    return own->chat(messages, options, on_token);
  }

  Expected<Session> session() const {
    edgekiln_session* handle = nullptr;
    const edgekiln_status status = edgekiln_session_create(handle_.get(), &handle);
    if (status != EDGEKILN_OK) return detail::failure(status);
    return Session(handle);
  }

  Expected<std::vector<std::int64_t>> tokenize(std::string_view text, bool add_special = true) const {
    return ids(
        [&](auto... rest) { return edgekiln_tokenize(handle_.get(), text.data(), text.size(), add_special, rest...); });
  }

  // Up to the start of the assistant's next answer.
  Expected<std::vector<std::int64_t>> tokenize_chat(const std::vector<Message>& messages) const {
    const std::vector<edgekiln_message> plain = detail::to_c(messages);
    return ids(
        [&](auto... rest) { return edgekiln_tokenize_chat(handle_.get(), plain.data(), plain.size(), rest...); });
  }

  Expected<std::string> detokenize(const std::vector<std::int64_t>& ids) const {
    std::size_t size = 0;
    edgekiln_status status = edgekiln_detokenize(handle_.get(), ids.data(), ids.size(), nullptr, 0, &size);
    if (status != EDGEKILN_OK) return detail::failure(status);
    std::string text(size, '\0');
    status = edgekiln_detokenize(handle_.get(), ids.data(), ids.size(), text.data(), size, &size);
    if (status != EDGEKILN_OK) return detail::failure(status);
    return text;
  }

 private:
  explicit Engine(edgekiln_engine* handle) : handle_(handle, &edgekiln_engine_close) {}

  // Call a C function that gives ids first for their number, then for the ids.
  template <typename Call>
  static Expected<std::vector<std::int64_t>> ids(Call call) {
    std::size_t count = 0;
    edgekiln_status status = call(static_cast<std::int64_t*>(nullptr), std::size_t{0}, &count);
    if (status != EDGEKILN_OK) return detail::failure(status);
    std::vector<std::int64_t> result(count);
    status = call(result.data(), count, &count);
    if (status != EDGEKILN_OK) return detail::failure(status);
    return result;
  }

  std::unique_ptr<edgekiln_engine, decltype(&edgekiln_engine_close)> handle_;
};

}  // namespace edgekiln
