# Target onnxruntime_headers: the headers of ONNX Runtime's C and C++ API.
#
# Search order: ONNXRUNTIME_ROOT (CMake variable or environment), the system, ONNX Runtime's official release, an npm
# package with the same headers (for machines that reach only package registries). Downloads are kept in the build folder;
# the release's library too, for OnnxRuntime.cmake.
include_guard(GLOBAL)
set(_release 1.23.2)
set(_package com.github.asus4.onnxruntime@0.4.9)
set(_fetched ${CMAKE_BINARY_DIR}/onnxruntime-headers)

function(_find_headers)
  find_path(ONNXRUNTIME_INCLUDE_DIR onnxruntime_c_api.h
    HINTS ${ONNXRUNTIME_ROOT} $ENV{ONNXRUNTIME_ROOT} ${_fetched}
    PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session)
endfunction()

function(_fetch_release)
  set(_archive ${CMAKE_BINARY_DIR}/onnxruntime.tgz)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
    set(_name onnxruntime-linux-aarch64-${_release})
  else()
    set(_name onnxruntime-linux-x64-${_release})
  endif()
  file(DOWNLOAD https://github.com/microsoft/onnxruntime/releases/download/v${_release}/${_name}.tgz
    ${_archive} STATUS _status INACTIVITY_TIMEOUT 20)
  list(GET _status 0 _code)
  if(_code EQUAL 0)
    file(ARCHIVE_EXTRACT INPUT ${_archive} DESTINATION ${_fetched}.part PATTERNS "*/include/*.h" "*/lib/libonnxruntime.so*")
    file(RENAME ${_fetched}.part/${_name} ${_fetched})
  endif()
  file(REMOVE_RECURSE ${_archive} ${_fetched}.part)
endfunction()

function(_fetch_package)
  find_program(NPM npm)
  if(NOT NPM)
    return()
  endif()
  execute_process(COMMAND ${NPM} pack --silent ${_package} WORKING_DIRECTORY ${CMAKE_BINARY_DIR}
    OUTPUT_VARIABLE _archive OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE _code)
  if(_code EQUAL 0)
    set(_folder "package/Plugins/iOS~/onnxruntime.xcframework/ios-arm64_x86_64-simulator/onnxruntime.framework/Headers")
    file(ARCHIVE_EXTRACT INPUT ${CMAKE_BINARY_DIR}/${_archive} DESTINATION ${_fetched}.part PATTERNS "${_folder}/*.h")
    file(MAKE_DIRECTORY ${_fetched})
    file(RENAME "${_fetched}.part/${_folder}" ${_fetched}/include)
  endif()
  file(REMOVE_RECURSE ${CMAKE_BINARY_DIR}/${_archive} ${_fetched}.part)
endfunction()

_find_headers()
foreach(_origin release package)
  if(NOT ONNXRUNTIME_INCLUDE_DIR)
    message(STATUS "Fetching ONNX Runtime's headers (${_origin})")
    cmake_language(CALL _fetch_${_origin})
    _find_headers()
  endif()
endforeach()
if(NOT ONNXRUNTIME_INCLUDE_DIR)
  message(FATAL_ERROR "onnxruntime_c_api.h is not found and cannot be fetched: set ONNXRUNTIME_ROOT to a folder with ONNX Runtime's headers")
endif()
message(STATUS "ONNX Runtime headers: ${ONNXRUNTIME_INCLUDE_DIR}")

add_library(onnxruntime_headers INTERFACE)
target_include_directories(onnxruntime_headers SYSTEM INTERFACE ${ONNXRUNTIME_INCLUDE_DIR})
