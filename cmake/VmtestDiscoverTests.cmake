# vmtest_discover_tests(target
#   [TIMEOUT seconds]            limit of each test (default 300); the test itself stops a little before, saving evidence
#   [PROCESSORS n]               host CPUs that a test of this target keeps busy (default 1), for ctest -j
#   [TEST_PREFIX text]           put in front of each test's name
#   [EXTRA_ARGS argument ...]    given to the test program
#   [LAUNCHER command ...]       put in front of the program and its arguments when a test runs; it ends by exec of them
#   [WORKING_DIRECTORY folder]   where tests run (default: the current binary folder)
#   [DISCOVERY_TIMEOUT seconds]  limit for listing the tests after each build (default 30)
#   [PROPERTIES name value ...]) further properties of each test; a list needs its semicolons escaped
#
# Makes a CTest test of every GoogleTest test of a program, as gtest_discover_tests does, and knows what VMs need:
# - tests of a suite that shares its VM become one CTest test, named after the suite, with TIMEOUT for each of them;
# - a test that takes too long ends itself before CTest kills it, so that its evidence is saved (VMTEST_TEST_TIMEOUT);
# - a skipped test is reported as skipped, not as passed;
# - tests find the supervisor of the build or installation that they were linked against.
# Memory needs no property: VMs wait for each other through the host-wide ledger.

function(vmtest_discover_tests target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT;PROCESSORS;TEST_PREFIX;WORKING_DIRECTORY;DISCOVERY_TIMEOUT" "EXTRA_ARGS;LAUNCHER;PROPERTIES")
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "vmtest_discover_tests(${target}): unknown arguments: ${arg_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT TARGET ${target})
    message(FATAL_ERROR "vmtest_discover_tests: \"${target}\" is no target")
  endif()
  foreach(default "TIMEOUT 300" "PROCESSORS 1" "DISCOVERY_TIMEOUT 30" "WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}")
    string(REGEX MATCH "^([A-Z_]+) (.*)$" _ "${default}")
    if(NOT DEFINED arg_${CMAKE_MATCH_1})
      set(arg_${CMAKE_MATCH_1} "${CMAKE_MATCH_2}")
    endif()
  endforeach()
  if(NOT arg_TIMEOUT MATCHES "^[1-9][0-9]*$")
    message(FATAL_ERROR "vmtest_discover_tests(${target}): TIMEOUT must be whole seconds, not \"${arg_TIMEOUT}\"")
  endif()
  if(TARGET vmtest_supervisor)
    set(supervisor $<TARGET_FILE:vmtest_supervisor>)
    add_dependencies(${target} vmtest_supervisor vmtest_propolis_keeper)
  else()
    set(supervisor $<TARGET_FILE:vmtest::supervisor>)
  endif()

  # A program may be discovered twice, with prefixes.
  string(MAKE_C_IDENTIFIER "${target}_${arg_TEST_PREFIX}" id)
  set(base "${CMAKE_CURRENT_BINARY_DIR}/${id}_vmtest")
  # Programs that are not built yet are named in CTest, instead of being left out in silence.
  file(WRITE "${base}_include.cmake"
    "if(EXISTS \"${base}_tests.cmake\")\n  include(\"${base}_tests.cmake\")\nelse()\n  add_test(${target}_NOT_BUILT ${target}_NOT_BUILT)\nendif()\n")
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES "${base}_include.cmake")
  add_custom_command(TARGET ${target} POST_BUILD
    COMMAND ${CMAKE_COMMAND}
      -D "EXECUTABLE=$<TARGET_FILE:${target}>"
      -D "EMULATOR=$<TARGET_PROPERTY:${target},CROSSCOMPILING_EMULATOR>"
      -D "OUTPUT=${base}_tests.cmake"
      -D "SUPERVISOR=${supervisor}"
      -D "TIMEOUT=${arg_TIMEOUT}"
      -D "PROCESSORS=${arg_PROCESSORS}"
      -D "PREFIX=${arg_TEST_PREFIX}"
      -D "EXTRA_ARGS=${arg_EXTRA_ARGS}"
      -D "LAUNCHER=${arg_LAUNCHER}"
      -D "WORKING_DIRECTORY=${arg_WORKING_DIRECTORY}"
      -D "DISCOVERY_TIMEOUT=${arg_DISCOVERY_TIMEOUT}"
      -D "PROPERTIES=${arg_PROPERTIES}"
      -P "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/VmtestAddTests.cmake"
    BYPRODUCTS "${base}_tests.cmake"
    VERBATIM)
endfunction()
