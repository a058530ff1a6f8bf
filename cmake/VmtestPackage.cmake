# The package that find_package(vmtest) finds: exported targets, version and config files, the test discovery.

if(VMTEST_INSTALL)
  include(CMakePackageConfigHelpers)
  set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/vmtest)
  install(EXPORT vmtestTargets NAMESPACE vmtest:: DESTINATION ${package_dir})
  # Where the package's own programs are, seen from its config file: an installed tree may be moved.
  set(VMTEST_LIBEXECDIR ${CMAKE_INSTALL_LIBEXECDIR}/vmtest)
  set(VMTEST_BINDIR ${CMAKE_INSTALL_BINDIR})
  configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/vmtestConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/vmtestConfig.cmake
    INSTALL_DESTINATION ${package_dir} PATH_VARS VMTEST_LIBEXECDIR VMTEST_BINDIR)
  # Before 1.0 a minor version may change the interface.
  write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/vmtestConfigVersion.cmake COMPATIBILITY SameMinorVersion)
  install(FILES
      ${CMAKE_CURRENT_BINARY_DIR}/vmtestConfig.cmake
      ${CMAKE_CURRENT_BINARY_DIR}/vmtestConfigVersion.cmake
      ${PROJECT_SOURCE_DIR}/cmake/VmtestDiscoverTests.cmake
      ${PROJECT_SOURCE_DIR}/cmake/VmtestAddTests.cmake
    DESTINATION ${package_dir})
  install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
endif()
