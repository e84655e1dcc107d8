#include "engine/sha256.h"

#include <openssl/evp.h>

#include <cstddef>
#include <cstdio>
#include <memory>
#include <vector>

#include "util/str_cat.h"

namespace edgekiln {

namespace {

constexpr std::size_t kBlock = std::size_t{1} << 18;

std::string hex(const unsigned char* bytes, unsigned size) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (unsigned i = 0; i < size; ++i) {
    text += kDigits[bytes[i] >> 4];
    text += kDigits[bytes[i] & 15];
  }
  return text;
}

}  // namespace

Result<std::string> sha256(const std::filesystem::path& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file) return fail(Code::kEngine, path.string(), " cannot be read: check its permissions");
  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> state(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  if (!state || EVP_DigestInit_ex(state.get(), EVP_sha256(), nullptr) != 1)
    return fail(Code::kInternal, "this system's libcrypto has no SHA-256: install OpenSSL 3");
  std::vector<unsigned char> block(kBlock);
  while (const std::size_t size = std::fread(block.data(), 1, block.size(), file.get()))
    EVP_DigestUpdate(state.get(), block.data(), size);
  if (std::ferror(file.get())) return fail(Code::kEngine, path.string(), " cannot be read: check the disk");
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  EVP_DigestFinal_ex(state.get(), digest, &size);
  return hex(digest, size);
}

}  // namespace edgekiln
