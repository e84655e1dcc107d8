// The limit on the next token of an answer, which the caller of `generate` gives token by token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "sampling/bitmask.h"
#include "util/result.h"

namespace edgekiln {

// The values equal those of `edgekiln_mask_result` in the C API.
enum class MaskResult { kSet = 0, kAny = 1, kEnd = 2, kCancel = 3 };

// Sets the bits of `mask`, which are all 0, for the tokens that may follow `answer`, its tokens so far.
using MaskCallback =
    std::function<Result<MaskResult>(std::span<const std::int64_t> answer, std::span<std::uint32_t> mask)>;

// The mask of one answer.
class TokenMask {
 public:
  // `callback` may be empty: any token may follow, then. It must outlive this object.
  TokenMask(const MaskCallback& callback, std::size_t vocab_size) : callback_(callback) {
    if (callback_) words_.resize((vocab_size + 31) / 32);
  }

  // Append a token to the answer.
  void append(std::int64_t token) {
    if (callback_) answer_.push_back(token);
  }

  // Ask for the mask of the next token. Returns false if the answer is complete; an error of Code::kCancelled if the
  // callback cancels.
  Result<bool> ask();

  // The last mask; nothing where any token may follow.
  std::optional<Bitmask> words() const { return limited_ ? std::optional<Bitmask>(words_) : std::nullopt; }

 private:
  const MaskCallback& callback_;
  std::vector<std::int64_t> answer_;
  std::vector<std::uint32_t> words_;
  bool limited_ = false;
};

}  // namespace edgekiln
