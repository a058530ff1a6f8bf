# What all targets of the tree have in common.

# vmtest_platform_sources(RESULT name ...): the files `<name>_<platform>.cc` of the system that is built for, as `ledger_linux.cc` on
# Linux. Ends the configuration with what is missing where nobody has written them.
function(vmtest_platform_sources result)
  string(TOLOWER "${CMAKE_SYSTEM_NAME}" platform)
  set(sources)
  foreach(name IN LISTS ARGN)
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${name}_${platform}.cc)
      message(FATAL_ERROR "vmtest does not run on ${CMAKE_SYSTEM_NAME} yet: there is no ${CMAKE_CURRENT_SOURCE_DIR}/${name}_${platform}.cc; "
        "write it after ${name}_linux.cc")
    endif()
    list(APPEND sources ${name}_${platform}.cc)
  endforeach()
  set(${result} ${sources} PARENT_SCOPE)
endfunction()

# The flags of every target: C++20, warnings, and the sanitizers asked for by VMTEST_SANITIZE.
function(vmtest_common target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    # Its own std::string makes them up, seen through a precompiled header.
    target_compile_options(${target} PRIVATE -Wno-array-bounds -Wno-restrict -Wno-stringop-overflow)
  endif()
  if(VMTEST_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${VMTEST_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
    target_link_options(${target} PRIVATE -fsanitize=${VMTEST_SANITIZE})
    if(VMTEST_SANITIZE MATCHES "address" AND VMTEST_SANITIZE MATCHES "undefined")
      # AddressSanitizer ends a program for these as well, and they are a fifth of the time it takes to compile.
      target_compile_options(${target} PRIVATE -fno-sanitize=null,object-size)
    endif()
  endif()
endfunction()

# Headers that nearly every file includes, read once for each target. Each file includes what it uses all the same: ci/lint builds
# without this.
set(vmtest_common_headers <algorithm> <chrono> <filesystem> <functional> <map> <memory> <optional> <string> <thread> <vector>)

# vmtest_layer(host SOURCES ... DEPENDS ... PRIVATE_DEPENDS ...): one folder, one library, one layer. Public headers are those in include/.
function(vmtest_layer name)
  cmake_parse_arguments(LAYER "" "" "SOURCES;DEPENDS;PRIVATE_DEPENDS" ${ARGN})
  set(target vmtest_${name})
  add_library(${target} STATIC ${LAYER_SOURCES})
  add_library(vmtest::${name} ALIAS ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name} POSITION_INDEPENDENT_CODE ON)
  vmtest_common(${target})
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/include/*.h)
  target_sources(${target} PUBLIC FILE_SET HEADERS BASE_DIRS ${CMAKE_CURRENT_SOURCE_DIR}/include FILES ${headers})
  target_include_directories(${target} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_link_libraries(${target} PUBLIC ${LAYER_DEPENDS} PRIVATE ${LAYER_PRIVATE_DEPENDS})
  target_precompile_headers(${target} PRIVATE ${vmtest_common_headers})
  if(nlohmann_json::nlohmann_json IN_LIST LAYER_PRIVATE_DEPENDS)
    target_precompile_headers(${target} PRIVATE <nlohmann/json.hpp>)
  endif()
  # Each public header compiles alone: --target all_verify_interface_header_sets, which ci/test builds.
  set_target_properties(${target} PROPERTIES VERIFY_INTERFACE_HEADER_SETS ON)
  if(VMTEST_INSTALL)
    install(TARGETS ${target} EXPORT vmtestTargets FILE_SET HEADERS ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  endif()
endfunction()

# vmtest_test(name LABEL unit SOURCES ... DEPENDS ... [TIMEOUT seconds]): a test binary, each test a CTest test of its own.
function(vmtest_test name)
  cmake_parse_arguments(TEST "" "LABEL;TIMEOUT" "SOURCES;DEPENDS;PROPERTIES" ${ARGN})
  if(NOT VMTEST_BUILD_TESTS)
    return()
  endif()
  if(NOT TEST_TIMEOUT)
    set(TEST_TIMEOUT 120)
  endif()
  add_executable(${name} ${TEST_SOURCES})
  vmtest_common(${name})
  target_include_directories(${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/tests/support)
  target_link_libraries(${name} PRIVATE ${TEST_DEPENDS} GTest::gtest GTest::gtest_main)
  # Worth it where several files share it.
  list(LENGTH TEST_SOURCES count)
  if(count GREATER 3)
    target_precompile_headers(${name} PRIVATE <gtest/gtest.h> ${vmtest_common_headers})
  endif()
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60
    PROPERTIES LABELS "${TEST_LABEL}" TIMEOUT ${TEST_TIMEOUT} ENVIRONMENT "VMTEST_SUPERVISOR=$<TARGET_FILE:vmtest_supervisor>" ${TEST_PROPERTIES})
endfunction()
