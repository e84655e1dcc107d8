// Opens ONNX Runtime's library when the first engine is opened, so that programs need no ONNX Runtime to be linked.
#pragma once

#include <onnxruntime_c_api.h>

#include "util/result.h"

namespace edgekiln {

// ONNX Runtime's entry point. The first of these that there is:
// - the library at the path in the environment variable EDGEKILN_ONNXRUNTIME,
// - the one that the program is linked with or has opened for all its libraries,
// - libonnxruntime.so.1 in the folder of this library,
// - the `onnxruntime` package beside the `edgekiln` package that this library belongs to,
// - libonnxruntime.so.1 in the system's search path.
//
// An error of Code::kRuntime if there is none, or if the variable's is no ONNX Runtime.
Result<const OrtApiBase*> onnxruntime_library();

}  // namespace edgekiln
