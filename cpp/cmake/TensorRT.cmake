# Target edgekiln_tensorrt_headers: the headers of TensorRT 10 and of the CUDA runtime. Both libraries are loaded at run
# time.
#
# Searched in TENSORRT_ROOT and CUDAToolkit_ROOT (CMake variables or environment), and in the system.
find_path(TENSORRT_INCLUDE_DIR NvInferRuntime.h HINTS ${TENSORRT_ROOT} $ENV{TENSORRT_ROOT} PATH_SUFFIXES include)
find_path(CUDA_INCLUDE_DIR cuda_runtime_api.h
  HINTS ${CUDAToolkit_ROOT} $ENV{CUDAToolkit_ROOT} $ENV{CUDA_PATH} PATHS /usr/local/cuda PATH_SUFFIXES include)
foreach(_pair TENSORRT_INCLUDE_DIR:NvInferRuntime.h:TENSORRT_ROOT CUDA_INCLUDE_DIR:cuda_runtime_api.h:CUDAToolkit_ROOT)
  string(REPLACE ":" ";" _pair ${_pair})
  list(GET _pair 0 _folder)
  list(GET _pair 1 _header)
  list(GET _pair 2 _root)
  if(NOT ${_folder})
    message(FATAL_ERROR "${_header} is not found: set ${_root} to the folder that has it, or turn EDGEKILN_WITH_TENSORRT off")
  endif()
endforeach()
message(STATUS "TensorRT headers: ${TENSORRT_INCLUDE_DIR}, CUDA headers: ${CUDA_INCLUDE_DIR}")

add_library(edgekiln_tensorrt_headers INTERFACE)
target_include_directories(edgekiln_tensorrt_headers SYSTEM INTERFACE ${TENSORRT_INCLUDE_DIR} ${CUDA_INCLUDE_DIR})
