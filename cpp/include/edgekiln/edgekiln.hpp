// edgekiln for C++17 and later: owners of the C interface's handles. Header only; link libedgekiln.
//
// Nothing here throws but what the standard library does when memory runs out, and what a callback throws: that ends
// the answer and goes on to the caller.
#pragma once

#include <edgekiln/edgekiln.h>

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace edgekiln {

struct Failure {
  edgekiln_status status;
  std::string message;
};

// A value or a failure, as std::expected of C++23.
template <typename T>
class [[nodiscard]] Expected {
 public:
  Expected(T value) : content_(std::in_place_index<0>, std::move(value)) {}
  Expected(Failure failure) : content_(std::in_place_index<1>, std::move(failure)) {}

  bool has_value() const { return content_.index() == 0; }
  explicit operator bool() const { return has_value(); }

  // Only where there is a value.
  T& value() { return *std::get_if<0>(&content_); }
  const T& value() const { return *std::get_if<0>(&content_); }
  T& operator*() { return value(); }
  const T& operator*() const { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  // Only where there is none.
  const Failure& error() const { return *std::get_if<1>(&content_); }

 private:
  std::variant<T, Failure> content_;
};

struct Message {
  std::string role;
  std::string content;
};

// What edgekiln_generate_options is, owning its strings.
struct Options {
  Options() { edgekiln_generate_options_init(&values); }

  edgekiln_generate_options values;  // but for its stop strings
  std::vector<std::string> stop;
};

struct Token {
  std::int64_t id;
  std::string_view text;  // until the callback returns
  double logprob;
  edgekiln_finish finish;
};

struct Answer {
  std::string text;
  edgekiln_summary summary;
};

using TokenCallback = std::function<bool(const Token&)>;  // false cancels

namespace detail {

inline Failure failure(edgekiln_status status) { return {status, edgekiln_error()}; }

struct Take {
  const TokenCallback& callback;
  std::string text;
  std::exception_ptr exception;

  static int call(const edgekiln_token* token, void* user_data) noexcept {
    auto& self = *static_cast<Take*>(user_data);
    try {
      const std::string_view text(token->text, token->text_length);
      self.text += text;
      return self.callback && !self.callback({token->id, text, token->logprob, token->finish});
    } catch (...) {
      self.exception = std::current_exception();
      return 1;
    }
  }
};

inline std::vector<edgekiln_message> plain(const std::vector<Message>& messages) {
  std::vector<edgekiln_message> result;
  for (const Message& message : messages) result.push_back({message.role.c_str(), message.content.c_str()});
  return result;
}

}  // namespace detail

// One conversation. Its engine's weights live at least as long as it does.
class Session {
 public:
  Expected<Answer> generate(const std::vector<std::int64_t>& ids, const Options& options = {},
                            const TokenCallback& callback = {}) {
    return run(options, callback,
               [&](auto... rest) { return edgekiln_generate(handle_.get(), ids.data(), ids.size(), rest...); });
  }

  Expected<Answer> generate(std::string_view text, const Options& options = {}, const TokenCallback& callback = {}) {
    return run(options, callback,
               [&](auto... rest) { return edgekiln_generate_text(handle_.get(), text.data(), text.size(), rest...); });
  }

  Expected<Answer> chat(const std::vector<Message>& messages, const Options& options = {},
                        const TokenCallback& callback = {}) {
    const std::vector<edgekiln_message> plain = detail::plain(messages);
    return run(options, callback, [&](auto... rest) {
      return edgekiln_generate_chat(handle_.get(), plain.data(), plain.size(), rest...);
    });
  }

  // From any thread.
  void cancel() { edgekiln_session_cancel(handle_.get()); }

  void reset() { static_cast<void>(edgekiln_session_reset(handle_.get())); }

 private:
  friend class Engine;
  explicit Session(edgekiln_session* handle) : handle_(handle, &edgekiln_session_free) {}

  template <typename Call>
  Expected<Answer> run(const Options& options, const TokenCallback& callback, Call call) {
    std::vector<const char*> stop;
    for (const std::string& one : options.stop) stop.push_back(one.c_str());
    edgekiln_generate_options values = options.values;
    values.stop = stop.data();
    values.stop_count = stop.size();
    detail::Take take{callback, {}, {}};
    edgekiln_summary summary{};
    const edgekiln_status status = call(&values, &detail::Take::call, static_cast<void*>(&take), &summary);
    if (take.exception) std::rethrow_exception(take.exception);
    if (status != EDGEKILN_OK) return detail::failure(status);
    return Answer{std::move(take.text), summary};
  }

  std::unique_ptr<edgekiln_session, decltype(&edgekiln_session_free)> handle_;
};

// A loaded engine, for any number of threads.
class Engine {
 public:
  static edgekiln_engine_options defaults() {
    edgekiln_engine_options options;
    edgekiln_engine_options_init(&options);
    return options;
  }

  static Expected<Engine> open(const std::string& directory, const edgekiln_engine_options& options = defaults()) {
    edgekiln_engine* handle = nullptr;
    const edgekiln_status status = edgekiln_engine_open(directory.c_str(), &options, &handle);
    if (status != EDGEKILN_OK) return detail::failure(status);
    return Engine(handle);
  }

  edgekiln_engine_info info() const {
    edgekiln_engine_info info{};
    static_cast<void>(edgekiln_engine_get_info(handle_.get(), &info));
    return info;
  }

  // Greedy but for what the model's makers recommend.
  Options options() const {
    Options options;
    static_cast<void>(edgekiln_generate_options_of(handle_.get(), &options.values));
    return options;
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

  Expected<std::vector<std::int64_t>> tokenize_chat(const std::vector<Message>& messages) const {
    const std::vector<edgekiln_message> plain = detail::plain(messages);
    return ids(
        [&](auto... rest) { return edgekiln_tokenize_chat(handle_.get(), plain.data(), plain.size(), rest...); });
  }

  Expected<std::string> detokenize(const std::vector<std::int64_t>& ids) const {
    std::string text;
    for (std::size_t size = 0;;) {
      const edgekiln_status status =
          edgekiln_detokenize(handle_.get(), ids.data(), ids.size(), text.data(), text.size(), &size);
      if (status != EDGEKILN_OK) return detail::failure(status);
      if (size <= text.size()) return text;
      text.resize(size);
    }
  }

 private:
  explicit Engine(edgekiln_engine* handle) : handle_(handle, &edgekiln_engine_close) {}

  template <typename Call>
  static Expected<std::vector<std::int64_t>> ids(Call call) {
    std::vector<std::int64_t> ids;
    for (std::size_t count = 0;;) {
      const edgekiln_status status = call(ids.data(), ids.size(), &count);
      if (status != EDGEKILN_OK) return detail::failure(status);
      if (count <= ids.size()) return ids;
      ids.resize(count);
    }
  }

  std::unique_ptr<edgekiln_engine, decltype(&edgekiln_engine_close)> handle_;
};

}  // namespace edgekiln
