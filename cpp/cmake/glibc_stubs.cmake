# Script: make the folder OUT with glibc 2.28 to link shared libraries with, for ARCH, x86_64 or aarch64.
#
#   cmake -D ARCH=x86_64 -D ZIG=/path/to/zig -D OUT=build/glibc/x86_64 -P cpp/cmake/glibc_stubs.cmake
#
# Zig (`pip install ziglang`) has the symbols of every glibc and writes its libraries without their code when it links.
# glibc_2_28.c adds what the compiler's libstdc++ needs of a newer one.
cmake_minimum_required(VERSION 3.25)
set(_cache ${OUT}/cache)
file(MAKE_DIRECTORY ${OUT})
file(WRITE ${OUT}/empty.c "int edgekiln_empty;\n")
set(ENV{ZIG_GLOBAL_CACHE_DIR} ${_cache})
set(ENV{ZIG_LOCAL_CACHE_DIR} ${_cache})
execute_process(COMMAND_ERROR_IS_FATAL ANY
  COMMAND ${ZIG} cc -target ${ARCH}-linux-gnu.2.28 -shared ${OUT}/empty.c -lm -lpthread -ldl -o ${OUT}/empty.so)
execute_process(COMMAND_ERROR_IS_FATAL ANY
  COMMAND ${ARCH}-linux-gnu-gcc -O2 -fPIC -fvisibility=hidden -c ${CMAKE_CURRENT_LIST_DIR}/glibc_2_28.c
          -o ${OUT}/glibc_2_28.o)
file(GLOB _libc ${_cache}/o/*/libc.so.6)
file(GLOB _nonshared ${_cache}/o/*/libc_nonshared.a)
if(NOT _libc OR NOT _nonshared)
  message(FATAL_ERROR "zig wrote no libc.so.6 to ${_cache}: this version of zig makes its libraries in another way")
endif()
list(GET _libc 0 _libc)
list(GET _nonshared 0 _nonshared)
cmake_path(GET _libc PARENT_PATH _folder)
# A newer glibc has threads and dlopen in libc itself, so that its compiler links no other library for them.
set(_others ${_folder}/libld.so.2)
foreach(_library m.so.6 dl.so.2 pthread.so.0 rt.so.1)
  string(REGEX REPLACE "[.]so.*" "" _name ${_library})
  file(CREATE_LINK ${_folder}/lib${_library} ${OUT}/lib${_name}.so SYMBOLIC)
  list(APPEND _others ${_folder}/lib${_library})
endforeach()
list(JOIN _others " " _others)
file(WRITE ${OUT}/libc.so "GROUP ( ${_libc} ${_nonshared} ${OUT}/glibc_2_28.o AS_NEEDED ( ${_others} ) )\n")
