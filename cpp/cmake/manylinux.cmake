# Toolchain of `make wheels`: shared libraries for Linux with glibc 2.28 or later (manylinux_2_28), for x86-64 and 64-bit Arm.
#
# Debian's or Ubuntu's GCC compiles them; they are linked with its static libstdc++ and with the libraries that
# glibc_stubs.cmake makes. The environment has EDGEKILN_WHEEL_ARCH, x86_64 or aarch64, and EDGEKILN_GLIBC, the folder of
# these libraries. The packages of HostPackages.cmake are the system's of that architecture.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR $ENV{EDGEKILN_WHEEL_ARCH})
set(CMAKE_LIBRARY_ARCHITECTURE ${CMAKE_SYSTEM_PROCESSOR}-linux-gnu)
if(NOT CMAKE_HOST_SYSTEM_PROCESSOR STREQUAL CMAKE_SYSTEM_PROCESSOR)
  set(CMAKE_C_COMPILER ${CMAKE_LIBRARY_ARCHITECTURE}-gcc)
  set(CMAKE_CXX_COMPILER ${CMAKE_LIBRARY_ARCHITECTURE}-g++)
endif()
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
foreach(_kind SHARED MODULE)
  set(CMAKE_${_kind}_LINKER_FLAGS_INIT
    "-L$ENV{EDGEKILN_GLIBC} -static-libstdc++ -Wl,--no-undefined -Wl,--gc-sections -Wl,--exclude-libs,ALL")
endforeach()
