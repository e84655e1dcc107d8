# Target edgekiln_onnxruntime: the headers of ONNX Runtime. libedgekiln opens the library at run time (find_library.cpp).
#
# For programs of the build folder, and for installs, the library is searched in this order: ONNXRUNTIME_ROOT (CMake
# variable or environment), the `onnxruntime` wheel in ONNXRUNTIME_WHEEL (the folder of `libonnxruntime.so.*`; `make cpp`
# passes that of .venv), the system, and the official release if OnnxRuntimeHeaders has fetched it.
# EDGEKILN_INSTALL_ONNXRUNTIME installs it next to libedgekiln; it is on by default for a library that does not belong to
# the system.
include(OnnxRuntimeHeaders)

set(ONNXRUNTIME_WHEEL "" CACHE PATH "A folder with the libonnxruntime.so.* of the onnxruntime wheel")

add_library(edgekiln_onnxruntime INTERFACE)
target_link_libraries(edgekiln_onnxruntime INTERFACE onnxruntime_headers)
if(SKBUILD)
  return()  # the wheel's library finds the `onnxruntime` package
endif()

function(_wheel_library)
  file(GLOB _found ${ONNXRUNTIME_WHEEL}/libonnxruntime.so.*)
  if(ONNXRUNTIME_WHEEL AND _found)
    list(GET _found 0 _library)
    set(ONNXRUNTIME_LIBRARY ${_library} CACHE FILEPATH "ONNX Runtime's library" FORCE)
  endif()
endfunction()

find_library(ONNXRUNTIME_LIBRARY onnxruntime HINTS ${ONNXRUNTIME_ROOT} $ENV{ONNXRUNTIME_ROOT}
  PATH_SUFFIXES lib lib64 NO_DEFAULT_PATH)
if(NOT ONNXRUNTIME_LIBRARY)
  _wheel_library()
endif()
find_library(ONNXRUNTIME_LIBRARY onnxruntime HINTS ${CMAKE_BINARY_DIR}/onnxruntime-headers/lib)
if(NOT ONNXRUNTIME_LIBRARY)
  message(STATUS "ONNX Runtime: no library found; programs need one at run time. Set ONNXRUNTIME_ROOT to an unpacked "
    "release of ONNX Runtime, or ONNXRUNTIME_WHEEL to the folder onnxruntime/capi that `pip install onnxruntime` makes")
  return()
endif()
message(STATUS "ONNX Runtime: ${ONNXRUNTIME_LIBRARY}")
# libedgekiln looks for this name in its own folder.
set(_named ${CMAKE_LIBRARY_OUTPUT_DIRECTORY}/libonnxruntime.so.1)
file(REAL_PATH ${ONNXRUNTIME_LIBRARY} _real)
file(MAKE_DIRECTORY ${CMAKE_LIBRARY_OUTPUT_DIRECTORY})
file(CREATE_LINK ${_real} ${_named} SYMBOLIC)
# A GPU release loads its providers from its own folder.
cmake_path(GET _real PARENT_PATH _folder)
set(_providers "")
if(EXISTS ${_folder}/libonnxruntime_providers_cuda.so)
  foreach(_part shared cuda)
    set(_provider libonnxruntime_providers_${_part}.so)
    file(CREATE_LINK ${_folder}/${_provider} ${CMAKE_LIBRARY_OUTPUT_DIRECTORY}/${_provider} SYMBOLIC)
    list(APPEND _providers ${_folder}/${_provider})
  endforeach()
endif()
if(_real MATCHES "^/usr/")
  set(_default OFF)
else()
  set(_default ON)
endif()
option(EDGEKILN_INSTALL_ONNXRUNTIME "Install ONNX Runtime's library beside libedgekiln" ${_default})
if(EDGEKILN_INSTALL_ONNXRUNTIME)
  install(FILES ${_real} DESTINATION ${CMAKE_INSTALL_LIBDIR} RENAME libonnxruntime.so.1 COMPONENT host)
  install(FILES ${_providers} DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT host)
endif()
