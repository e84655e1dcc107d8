# Cross-compile for 64-bit Arm on Debian or Ubuntu: cmake -S cpp -B build/aarch64 --toolchain cpp/cmake/aarch64.cmake
#
# Needs g++-aarch64-linux-gnu, and the packages of `make cpp-packages` with the suffix `:arm64` after
# `dpkg --add-architecture arm64`. CTest runs the programs in qemu-user if it is installed.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu /usr)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(ENV{PKG_CONFIG_LIBDIR} /usr/lib/aarch64-linux-gnu/pkgconfig:/usr/share/pkgconfig)
find_program(_qemu NAMES qemu-aarch64 qemu-aarch64-static)
if(_qemu)
  # -cpu max: with every extension, so that the tests run the kernels of every instruction set.
  set(CMAKE_CROSSCOMPILING_EMULATOR ${_qemu} -L /usr/aarch64-linux-gnu -cpu max)
endif()
