# Run after each build of a test program, see VmtestDiscoverTests.cmake: lists its tests and writes CTest's file of them.

cmake_minimum_required(VERSION 3.25)

# `text` as one argument in a CMake file, whatever characters it holds.
function(quote text result)
  set(level "")
  while(text MATCHES "]${level}]")
    string(APPEND level "=")
  endwhile()
  set(${result} "[${level}[${text}]${level}]" PARENT_SCOPE)
endfunction()

execute_process(
  COMMAND ${CMAKE_COMMAND} -E env --unset=GTEST_FILTER --unset=GTEST_TOTAL_SHARDS --unset=GTEST_SHARD_INDEX VMTEST_LIST_SHARED=1
    ${EMULATOR} "${EXECUTABLE}" --gtest_list_tests --gtest_color=no
  WORKING_DIRECTORY "${WORKING_DIRECTORY}"
  TIMEOUT ${DISCOVERY_TIMEOUT}
  OUTPUT_VARIABLE listing
  ERROR_VARIABLE errors
  RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  file(REMOVE "${OUTPUT}")
  message(FATAL_ERROR "cannot list the tests of ${EXECUTABLE} (${result}):\n${listing}${errors}")
endif()

# Semicolons and brackets mean something to CMake's lists; no test name has any, comments after "  #" may.
string(REGEX REPLACE "[][;]" "_" listing "${listing}")
string(REPLACE "\n" ";" lines "${listing}")
set(suites "")
set(shared "")
set(suite "")
foreach(line IN LISTS lines)
  string(REGEX REPLACE "  #.*$" "" line "${line}")
  string(REGEX REPLACE "[ \t\r]+$" "" line "${line}")
  if(line MATCHES "^vmtest-shared: (.+)$")
    list(APPEND shared "${CMAKE_MATCH_1}")
  elseif(line MATCHES "^([^ \t]+)\\.$")
    set(suite "${CMAKE_MATCH_1}")
    list(APPEND suites "${suite}")
  elseif(line MATCHES "^  ([^ \t].*)$" AND NOT suite STREQUAL "")
    list(APPEND "tests of ${suite}" "${CMAKE_MATCH_1}")
  endif()
endforeach()

# A test stops itself this much before its limit: saving evidence takes seconds.
math(EXPR margin "${TIMEOUT} / 20")
if(margin LESS 5)
  set(margin 5)
elseif(margin GREATER 30)
  set(margin 30)
endif()
math(EXPR own_limit "${TIMEOUT} - ${margin}")
if(own_limit LESS 1)
  set(own_limit 1)
endif()

set(environment "VMTEST_TEST_TIMEOUT=${own_limit}")
if(SUPERVISOR)
  list(APPEND environment "VMTEST_SUPERVISOR=${SUPERVISOR}")
endif()
set(properties "")
set(escaped "")
while(PROPERTIES)
  list(POP_FRONT PROPERTIES name value)
  if(name STREQUAL "ENVIRONMENT")
    list(APPEND environment "${value}")
  else()
    quote("${value}" value)
    string(APPEND properties " ${name} ${value}")
  endif()
endwhile()
quote("${environment}" environment)
quote("${WORKING_DIRECTORY}" directory)

# Skipped is only what GoogleTest's own last lines say so of: nothing passed, and nothing is listed after the skipped ones. CTest looks
# for this in what failed tests print as well, who may show what other tests printed.
quote("\\[  PASSED  \\] 0 tests\\.\n(\\[  SKIPPED \\] [^\n]*\n)+\n*$" skipped)

set(script "")
function(add name filter timeout disabled)
  quote("${PREFIX}${name}" test)
  set(command "")
  foreach(word IN LISTS LAUNCHER EMULATOR EXECUTABLE ITEMS "--gtest_filter=${filter}" LISTS EXTRA_ARGS)
    quote("${word}" word)
    string(APPEND command " ${word}")
  endforeach()
  set(text "add_test(${test}${command})\nset_tests_properties(${test} PROPERTIES TIMEOUT ${timeout} PROCESSORS ${PROCESSORS}")
  string(APPEND text " WORKING_DIRECTORY ${directory} ENVIRONMENT ${environment} SKIP_REGULAR_EXPRESSION ${skipped}")
  if(disabled)
    string(APPEND text " DISABLED TRUE")
  endif()
  set(script "${script}${text}${properties})\n" PARENT_SCOPE)
endfunction()

foreach(suite IN LISTS suites)
  list(LENGTH "tests of ${suite}" count)
  set(disabled_suite FALSE)
  if(suite MATCHES "(^|/)DISABLED_")
    set(disabled_suite TRUE)
  endif()
  if(suite IN_LIST shared)
    # All its tests in one process, skipped as a whole only when every test was.
    math(EXPR timeout "${TIMEOUT} * ${count}")
    add("${suite}" "${suite}.*" ${timeout} ${disabled_suite})
    continue()
  endif()
  foreach(test IN LISTS "tests of ${suite}")
    set(disabled ${disabled_suite})
    if(test MATCHES "^DISABLED_")
      set(disabled TRUE)
    endif()
    add("${suite}.${test}" "${suite}.${test}" ${TIMEOUT} ${disabled})
  endforeach()
endforeach()
file(WRITE "${OUTPUT}" "${script}")
