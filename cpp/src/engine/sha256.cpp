#include "engine/sha256.h"

// EVP would link all of a static libcrypto, 4 MB; these functions link SHA-256 alone.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include <array>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <span>
#include <vector>

#include "util/str_cat.h"

namespace edgekiln {

namespace {

constexpr std::size_t kBlock = std::size_t{1} << 18;

std::string hex(std::span<const unsigned char> bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

}  // namespace

Result<std::string> sha256(const std::filesystem::path& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file) return fail(Code::kEngine, path.string(), " cannot be read: check its permissions");
  SHA256_CTX state;
  SHA256_Init(&state);
  std::vector<unsigned char> block(kBlock);
  while (const std::size_t size = std::fread(block.data(), 1, block.size(), file.get()))
    SHA256_Update(&state, block.data(), size);
  if (std::ferror(file.get())) return fail(Code::kEngine, path.string(), " cannot be read: check the disk");
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
  SHA256_Final(digest.data(), &state);
  return hex(digest);
}

}  // namespace edgekiln
