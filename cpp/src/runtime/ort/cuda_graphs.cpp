#include "runtime/ort/cuda_graphs.h"

#include <vector>

namespace edgekiln {

void OrtCudaGraphs::copy(const Ort::Value& past, const Ort::Value& present) {
  std::vector<std::int64_t> zeros = present.GetTensorTypeAndShapeInfo().GetShape();
  zeros[2] -= past.GetTensorTypeAndShapeInfo().GetShape()[2];
  const auto rank = static_cast<std::int64_t>(zeros.size());
  const Ort::MemoryInfo host = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  Ort::IoBinding binding(grow);
  binding.BindInput("past", past);
  binding.BindInput("zeros", Ort::Value::CreateTensor<std::int64_t>(host, zeros.data(), zeros.size(), &rank, 1));
  binding.BindOutput("present", present);
  grow.Run(Ort::RunOptions(), binding);
}

}  // namespace edgekiln
