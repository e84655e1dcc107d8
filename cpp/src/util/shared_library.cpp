#include "util/shared_library.h"

#ifdef _WIN32
#include <windows.h>

#include <array>
#else
#include <dlfcn.h>
#endif

namespace edgekiln {

#ifdef _WIN32

namespace {

// The program or library that contains this code.
HMODULE own_module() {
  HMODULE module = nullptr;
  constexpr DWORD kFlags = GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT;
  if (!GetModuleHandleExW(kFlags, reinterpret_cast<LPCWSTR>(&own_folder), &module)) return nullptr;
  return module;
}

}  // namespace

SharedLibrary SharedLibrary::open(const std::filesystem::path& path, std::string* why) {
  const HMODULE module = LoadLibraryW(path.c_str());
  if (module == nullptr) {
    if (why != nullptr) *why = "error " + std::to_string(GetLastError());
    return {};
  }
  return SharedLibrary({module, [](void* opened) { FreeLibrary(static_cast<HMODULE>(opened)); }});
}

SharedLibrary::Address SharedLibrary::address(void* library, const char* name) {
  const HMODULE module = library != nullptr ? static_cast<HMODULE>(library) : GetModuleHandleW(nullptr);
  return reinterpret_cast<Address>(GetProcAddress(module, name));
}

std::filesystem::path own_folder() {
  std::array<wchar_t, 32768> name{};
  const HMODULE module = own_module();
  if (module == nullptr || GetModuleFileNameW(module, name.data(), static_cast<DWORD>(name.size())) == 0) return {};
  return std::filesystem::path(name.data()).parent_path();
}

#else

SharedLibrary SharedLibrary::open(const std::filesystem::path& path, std::string* why) {
  void* const handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* const reason = dlerror();
    if (why != nullptr) *why = reason != nullptr ? reason : "no reason given";
    return {};
  }
  return SharedLibrary({handle, &dlclose});
}

SharedLibrary::Address SharedLibrary::address(void* library, const char* name) {
  return reinterpret_cast<Address>(dlsym(library != nullptr ? library : RTLD_DEFAULT, name));
}

std::filesystem::path own_folder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<const void*>(&own_folder), &info) || info.dli_fname == nullptr) return {};
  return std::filesystem::path(info.dli_fname).parent_path();
}

#endif

}  // namespace edgekiln
