// Shared libraries that are opened while the program runs: all calls of the operating system for that.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

namespace edgekiln {

// An open library; functions that `symbol` found may be called while it or a copy of it lives.
class SharedLibrary {
 public:
  SharedLibrary() = default;

  // Open the library at `path`, or the one of that name in the system's search path. An empty object if that fails;
  // then `why`, if given, is the system's reason.
  static SharedLibrary open(const std::filesystem::path& path, std::string* why = nullptr);

  explicit operator bool() const { return handle_ != nullptr; }

  // The function `name`; null if the library has none.
  template <typename Function>
  Function* symbol(const char* name) const {
    return reinterpret_cast<Function*>(address(handle_.get(), name));
  }

  // The function `name` of the program and of the libraries that it was linked with; null if there is none.
  template <typename Function>
  static Function* symbol_of_program(const char* name) {
    return reinterpret_cast<Function*>(address(nullptr, name));
  }

 private:
  using Address = void (*)();

  explicit SharedLibrary(std::shared_ptr<void> handle) : handle_(std::move(handle)) {}
  static Address address(void* library, const char* name);

  std::shared_ptr<void> handle_;
};

// The folder of the shared library or program that contains this code; empty if the system does not say.
std::filesystem::path own_folder();

}  // namespace edgekiln
