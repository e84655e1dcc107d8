# What libedgekiln is built with, from the system: nlohmann-json, OpenSSL's libcrypto, PCRE2 and utf8proc.
#
# Targets edgekiln::json, edgekiln::pcre2, edgekiln::utf8proc, edgekiln::crypto and Threads::Threads. With
# EDGEKILN_STATIC_PACKAGES the libraries are linked from their static archives, so that libedgekiln needs none of them at
# run time. Without a package this fails, or with EDGEKILN_HOST=AUTO turns EDGEKILN_HOST off and says so.
option(EDGEKILN_STATIC_PACKAGES "Link PCRE2, utf8proc and libcrypto from static archives into libedgekiln" OFF)
set(_missing "")
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
# edgekiln_headers(TARGET FOLDER NAME): let TARGET include the header or folder NAME of FOLDER, but none beside it. A
# compiler for another system than this one must not see this system's headers of C, which are there too.
function(edgekiln_headers target folder name)
  foreach(_from "${folder}" "${folder}/${CMAKE_LIBRARY_ARCHITECTURE}")
    if(EXISTS ${_from}/${name})
      string(MAKE_C_IDENTIFIER ${_from} _own)
      set(_own ${CMAKE_BINARY_DIR}/packages/${_own})
      file(MAKE_DIRECTORY ${_own})
      file(CREATE_LINK ${_from}/${name} ${_own}/${name} SYMBOLIC)
      target_include_directories(${target} SYSTEM INTERFACE ${_own})
    endif()
  endforeach()
endfunction()

# edgekiln_package(NAME LIBRARY HEADER DEBIAN): target edgekiln::NAME, of headers alone if LIBRARY is empty.
function(edgekiln_package name library header debian)
  string(TOUPPER EDGEKILN_${name} _variable)
  find_path(${_variable}_INCLUDE_DIR ${header})
  if(library AND EDGEKILN_STATIC_PACKAGES)
    string(PREPEND library ${CMAKE_STATIC_LIBRARY_PREFIX})
    string(APPEND library ${CMAKE_STATIC_LIBRARY_SUFFIX})
  endif()
  if(library)
    find_library(${_variable}_LIBRARY NAMES ${library})
  else()
    set(${_variable}_LIBRARY "")
  endif()
  mark_as_advanced(${_variable}_LIBRARY ${_variable}_INCLUDE_DIR)
  if(NOT ${_variable}_INCLUDE_DIR OR "${${_variable}_LIBRARY}" MATCHES "NOTFOUND$")
    set(_missing ${_missing} ${debian} PARENT_SCOPE)
    return()
  endif()
  add_library(edgekiln::${name} INTERFACE IMPORTED)
  target_link_libraries(edgekiln::${name} INTERFACE ${${_variable}_LIBRARY})
  string(REGEX REPLACE "/.*" "" _top ${header})
  edgekiln_headers(edgekiln::${name} ${${_variable}_INCLUDE_DIR} ${_top})
  if(EDGEKILN_STATIC_PACKAGES AND EXISTS /usr/share/doc/${debian}/copyright)
    # The licenses of these libraries want their text beside every copy.
    install(FILES /usr/share/doc/${debian}/copyright DESTINATION share/licenses/edgekiln RENAME ${debian}.txt
            COMPONENT host)
  endif()
endfunction()

edgekiln_package(json "" nlohmann/json.hpp nlohmann-json3-dev)
edgekiln_package(pcre2 pcre2-8 pcre2.h libpcre2-dev)
edgekiln_package(utf8proc utf8proc utf8proc.h libutf8proc-dev)
edgekiln_package(crypto crypto openssl/sha.h libssl-dev)
if(EDGEKILN_STATIC_PACKAGES AND NOT _missing)
  target_compile_definitions(edgekiln::pcre2 INTERFACE PCRE2_STATIC)
  target_compile_definitions(edgekiln::utf8proc INTERFACE UTF8PROC_STATIC)
endif()

if(_missing)
  list(JOIN _missing " " _missing)
  if(EDGEKILN_HOST STREQUAL "AUTO")
    message(NOTICE "libedgekiln is not built, the kernels are: it needs packages that are not installed, "
      "on Debian: apt-get install ${_missing}")
    set(EDGEKILN_HOST OFF)
  else()
    message(FATAL_ERROR "libedgekiln needs packages that are not installed: run `make cpp-packages`, "
      "or on Debian: apt-get install ${_missing}")
  endif()
endif()
