#include "generate/speculation.h"

#include <algorithm>

namespace edgekiln {

namespace {

// Weights of the newest sample in the moving averages.
constexpr double kTimeWeight = 0.2;
constexpr double kAcceptanceWeight = 0.1;
constexpr std::size_t kTrialDraft = 3;  // tokens of a trial draft
constexpr double kTrialShare = 0.03;    // of the time of the steps since the last draft

void average(double& value, double newest, double weight) { value += weight * (newest - value); }

}  // namespace

std::size_t Speculation::draft_length() const {
  if (step_ == 0) return 0;
  if (const std::size_t best = best_length()) return best;
  const std::size_t trial = std::min(kTrialDraft, max_draft_);
  return added_ * static_cast<double>(trial) <= kTrialShare * plain_ ? trial : 0;
}

std::size_t Speculation::best_length() const {
  std::size_t best = 0;
  double highest = 1;
  double tokens = 1;
  double probability = 1;
  for (std::size_t length = 1; length <= max_draft_; ++length) {
    probability *= accepted_;
    tokens += probability;
    const double rate = tokens / (1 + added_ * static_cast<double>(length));
    if (rate > highest) {
      highest = rate;
      best = length;
    }
  }
  return best;
}

void Speculation::observe(std::size_t drafted, std::size_t accepted, double seconds) {
  if (drafted == 0) {
    average(step_, seconds, step_ == 0 ? 1 : kTimeWeight);
    plain_ += 1;
    return;
  }
  plain_ = 0;
  if (step_ > 0) average(added_, std::max(0.0, (seconds / step_ - 1) / static_cast<double>(drafted)), kTimeWeight);
  for (std::size_t token = 0; token < accepted; ++token) average(accepted_, 1, kAcceptanceWeight);
  if (accepted < drafted) average(accepted_, 0, kAcceptanceWeight);
}

}  // namespace edgekiln
