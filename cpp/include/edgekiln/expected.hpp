// Values or failures, as the C++ API returns them.
#pragma once

#include <edgekiln/edgekiln.h>

#include <string>
#include <utility>
#include <variant>

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

namespace detail {

// The failure of the calling thread's last call of the C API.
inline Failure failure(edgekiln_status status) { return {status, edgekiln_error()}; }

}  // namespace detail

}  // namespace edgekiln
