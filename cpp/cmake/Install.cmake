# Install rules, including the files for find_package(edgekiln) and pkg-config.
include(CMakePackageConfigHelpers)

set(_package ${CMAKE_INSTALL_LIBDIR}/cmake/edgekiln)
install(TARGETS edgekiln EXPORT edgekiln COMPONENT host)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT host)
install(EXPORT edgekiln NAMESPACE edgekiln:: FILE edgekiln-config.cmake DESTINATION ${_package} COMPONENT host)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/edgekiln-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/edgekiln-config-version.cmake DESTINATION ${_package} COMPONENT host)
configure_file(${CMAKE_CURRENT_LIST_DIR}/edgekiln.pc.in ${CMAKE_CURRENT_BINARY_DIR}/edgekiln.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/edgekiln.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT host)
if(TARGET edgekiln_ops)
  install(TARGETS edgekiln_ops LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT host)
endif()
