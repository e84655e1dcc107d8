// The C++ API of libedgekiln, for C++17 and later: a header-only wrapper of the C API that owns its handles. It mirrors
// the Python API (edgekiln.Engine).
//
//   const auto engine = edgekiln::Engine::open("engines/smollm2-135m-int8");
//   if (!engine) return report(engine.error().message);
//   const auto answer = engine->generate("Once upon a time");
//
// Functions that can fail return Expected. Nothing throws, apart from allocations of the standard library and from
// callbacks: an exception of a callback cancels the answer and propagates to the caller.
#pragma once

#include <edgekiln/edgekiln.h>

#include <cstddef>
#include <cstdint>
#include <edgekiln/expected.hpp>
#include <edgekiln/types.hpp>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edgekiln {

// A conversation that keeps its KV cache, so that only the new part of each prompt is computed. It keeps its engine's
// weights alive. Not thread-safe except for cancel().
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

  // Answer a prompt that the caller rendered, for instance by a chat template with tools.
  Expected<Answer> generate(const std::vector<PromptPart>& parts, const GenerateOptions& options = {},
                            const TokenCallback& on_token = {}) {
    const std::vector<edgekiln_prompt_part> plain = detail::to_c(parts);
    return run(options, on_token, [&](auto... rest) {
      return edgekiln_generate_parts(handle_.get(), plain.data(), plain.size(), rest...);
    });
  }

  // Answer a conversation through the model's chat template. Pass all of its messages each time.
  Expected<Answer> chat(const std::vector<Message>& messages, const GenerateOptions& options = {},
                        const TokenCallback& on_token = {}) {
    if (auto failure = detail::check(messages)) return *std::move(failure);
    const std::vector<edgekiln_message> plain = detail::to_c(messages);
    return run(options, on_token, [&](auto... rest) {
      return edgekiln_generate_chat(handle_.get(), plain.data(), plain.size(), rest...);
    });
  }

  // Send a user message. On success, the message and the answer are appended to messages().
  Expected<Answer> ask(std::string text, const GenerateOptions& options = {}, const TokenCallback& on_token = {}) {
    messages_.push_back({"user", std::move(text)});
    Expected<Answer> answer = chat(messages_, options, on_token);
    if (answer)
      messages_.push_back({"assistant", answer->text});
    else
      messages_.pop_back();
    return answer;
  }

  // The messages of ask(). They may be edited between its calls.
  std::vector<Message>& messages() { return messages_; }

  // Cancel the current call of generate, chat or ask. Thread-safe.
  void cancel() { edgekiln_session_cancel(handle_.get()); }

  // Drop all tokens. No effect while another thread generates in this session.
  void reset() { static_cast<void>(edgekiln_session_reset(handle_.get())); }

 private:
  friend class Engine;
  Session(edgekiln_session* handle, const edgekiln_generate_options& defaults)
      : handle_(handle, &edgekiln_session_free), defaults_(defaults) {}

  template <typename Call>
  Expected<Answer> run(const GenerateOptions& options, const TokenCallback& on_token, Call call) {
    if (auto failure = detail::check(options)) return *std::move(failure);
    std::vector<const char*> stop;
    edgekiln_generate_options plain = detail::to_c(options, defaults_, stop);
    detail::TokenSink sink{on_token, options.mask, {}, {}};
    if (options.mask) {
      plain.mask = &detail::TokenSink::mask;
      plain.mask_data = &sink;
    }
    edgekiln_summary summary;
    edgekiln_summary_init(&summary);
    const edgekiln_status status = call(&plain, &detail::TokenSink::call, static_cast<void*>(&sink), &summary);
    if (sink.exception) std::rethrow_exception(sink.exception);
    if (status != EDGEKILN_OK) return detail::failure(status);
    return Answer{std::move(sink.text), summary};
  }

  std::unique_ptr<edgekiln_session, decltype(&edgekiln_session_free)> handle_;
  edgekiln_generate_options defaults_;
  std::vector<Message> messages_;
};

// A loaded engine. Thread-safe.
class Engine {
 public:
  static Expected<Engine> open(const std::string& directory, const EngineOptions& options = {}) {
    const edgekiln_engine_options plain = detail::to_c(options);
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

  // Continue a prompt, in a session of its own.
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

  Expected<Answer> generate(const std::vector<PromptPart>& parts, const GenerateOptions& options = {},
                            const TokenCallback& on_token = {}) const {
    Expected<Session> own = session();
    if (!own) return own.error();
    return own->generate(parts, options, on_token);
  }

  // Answer a conversation through the model's chat template, in a session of its own.
  Expected<Answer> chat(const std::vector<Message>& messages, const GenerateOptions& options = {},
                        const TokenCallback& on_token = {}) const {
    Expected<Session> own = session();
    if (!own) return own.error();
    return own->chat(messages, options, on_token);
  }

  // A conversation that keeps its KV cache between calls.
  Expected<Session> session() const {
    edgekiln_generate_options defaults;
    edgekiln_generate_options_init(&defaults);
    static_cast<void>(edgekiln_engine_get_sampling(handle_.get(), &defaults));
    edgekiln_session* handle = nullptr;
    const edgekiln_status status = edgekiln_session_create(handle_.get(), &handle);
    if (status != EDGEKILN_OK) return detail::failure(status);
    return Session(handle, defaults);
  }

  // Token ids of `text`, with the special tokens that the tokenizer adds (BOS, for most models).
  Expected<std::vector<std::int64_t>> tokenize(std::string_view text, bool add_special = true) const {
    return ids(
        [&](auto... rest) { return edgekiln_tokenize(handle_.get(), text.data(), text.size(), add_special, rest...); });
  }

  // Token ids of a conversation up to the start of the assistant's next answer.
  Expected<std::vector<std::int64_t>> tokenize_chat(const std::vector<Message>& messages) const {
    if (auto failure = detail::check(messages)) return *std::move(failure);
    const std::vector<edgekiln_message> plain = detail::to_c(messages);
    return ids(
        [&](auto... rest) { return edgekiln_tokenize_chat(handle_.get(), plain.data(), plain.size(), rest...); });
  }

  // Token ids of a prompt that the caller rendered.
  Expected<std::vector<std::int64_t>> tokenize(const std::vector<PromptPart>& parts) const {
    const std::vector<edgekiln_prompt_part> plain = detail::to_c(parts);
    return ids(
        [&](auto... rest) { return edgekiln_tokenize_parts(handle_.get(), plain.data(), plain.size(), rest...); });
  }

  // Text of token ids, without special tokens; bytes that are not UTF-8 become U+FFFD.
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
