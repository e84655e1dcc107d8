// A value or the reason why there is none: how edgekiln's own code reports expected failures.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace edgekiln {

// What kind of failure it is. The numbers are those of the C interface, `edgekiln_status`.
enum class Code {
  kRequest = 1,      // an argument or option out of range, a prompt too long
  kEngine = 2,       // an engine directory that is missing, damaged or edited
  kUnsupported = 3,  // something this library does not read or run: a target, a schema, a tokenizer's part
  kRuntime = 4,      // the library that runs the graph failed
  kCancelled = 5,
  kMemory = 6,
  kInternal = 7,
};

// One clear sentence with the value and the fix.
struct Error {
  Code code;
  std::string message;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : content_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : content_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return content_.index() == 0; }
  explicit operator bool() const { return ok(); }

  // Only of a result that is ok().
  T& value() & { return *std::get_if<0>(&content_); }
  const T& value() const& { return *std::get_if<0>(&content_); }
  T&& value() && { return std::move(*std::get_if<0>(&content_)); }

  // Only of a result that is not ok().
  Error& error() & { return *std::get_if<1>(&content_); }
  const Error& error() const& { return *std::get_if<1>(&content_); }
  Error&& error() && { return std::move(*std::get_if<1>(&content_)); }

 private:
  std::variant<T, Error> content_;
};

// Success without a value, or an error.
template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}

  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }

  // Only of a result that is not ok().
  const Error& error() const& { return *error_; }
  Error&& error() && { return std::move(*error_); }

 private:
  std::optional<Error> error_;
};

}  // namespace edgekiln
