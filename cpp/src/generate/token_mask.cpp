#include "generate/token_mask.h"

#include <algorithm>

namespace edgekiln {

Result<bool> TokenMask::ask() {
  if (!callback_) return true;
  std::fill(words_.begin(), words_.end(), 0U);
  const Result<MaskResult> result = callback_(answer_, words_);
  if (!result) return std::unexpected(result.error());
  if (*result == MaskResult::kCancel) return fail(Code::kCancelled, "the answer was cancelled");
  limited_ = *result == MaskResult::kSet;
  return *result != MaskResult::kEnd;
}

}  // namespace edgekiln
