# Target edgekiln_doctest: doctest with its main function, compiled once for all C++ tests.
include_guard(GLOBAL)
if(NOT DOCTEST_INCLUDE_DIR)
  message(FATAL_ERROR "EDGEKILN_TESTS needs doctest, which is not installed: run `make cpp-packages`, "
    "on Debian: apt-get install doctest-dev, or build without tests: -D EDGEKILN_TESTS=OFF")
endif()
add_library(edgekiln_doctest OBJECT ${PROJECT_SOURCE_DIR}/tests/doctest_main.cpp)
target_include_directories(edgekiln_doctest SYSTEM PUBLIC ${DOCTEST_INCLUDE_DIR})

# edgekiln_add_test(NAME LIBRARY...): build NAME_test from NAME_test.cpp with doctest and the libraries; run it as NAME.
function(edgekiln_add_test name)
  add_executable(${name}_test ${name}_test.cpp)
  target_link_libraries(${name}_test PRIVATE edgekiln_doctest ${ARGN})
  add_test(NAME ${name} COMMAND ${name}_test)
endfunction()
