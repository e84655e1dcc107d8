#include "generate/speculation.h"

#include <algorithm>

namespace edgekiln {

namespace {

constexpr double kOfTimes = 0.2;  // weight of the newest of what is averaged
constexpr double kOfAcceptance = 0.1;
constexpr std::size_t kTrial = 3;  // tokens of a short draft
constexpr double kTrialShare = 0.03;

void average(double& value, double newest, double weight) { value += weight * (newest - value); }

}  // namespace

std::size_t Speculation::draft_length() const {
  if (step_ == 0) return 0;
  if (const std::size_t best = best_length()) return best;
  const std::size_t trial = std::min(kTrial, most_);
  return added_ * static_cast<double>(trial) <= kTrialShare * plain_ ? trial : 0;
}

std::size_t Speculation::best_length() const {
  std::size_t best = 0;
  double highest = 1;
  double tokens = 1;
  double chance = 1;
  for (std::size_t length = 1; length <= most_; ++length) {
    chance *= accepted_;
    tokens += chance;
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
    average(step_, seconds, step_ == 0 ? 1 : kOfTimes);
    plain_ += 1;
    return;
  }
  plain_ = 0;
  if (step_ > 0) average(added_, std::max(0.0, (seconds / step_ - 1) / static_cast<double>(drafted)), kOfTimes);
  for (std::size_t token = 0; token < accepted; ++token) average(accepted_, 1, kOfAcceptance);
  if (accepted < drafted) average(accepted_, 0, kOfAcceptance);
}

}  // namespace edgekiln
