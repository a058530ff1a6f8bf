# What vmtest_discover_tests has CTest know of the consumer's tests.

cmake_minimum_required(VERSION 3.25)

execute_process(COMMAND ${CTEST} --test-dir ${BUILD} --show-only=json-v1 OUTPUT_VARIABLE listing COMMAND_ERROR_IS_FATAL ANY)

# The value of that test's property, as JSON.
function(property test name result)
  string(JSON tests LENGTH "${listing}" tests)
  foreach(i RANGE 1 ${tests})
    math(EXPR i "${i} - 1")
    string(JSON found GET "${listing}" tests ${i} name)
    if(NOT found STREQUAL test)
      continue()
    endif()
    string(JSON properties LENGTH "${listing}" tests ${i} properties)
    foreach(k RANGE 1 ${properties})
      math(EXPR k "${k} - 1")
      string(JSON found GET "${listing}" tests ${i} properties ${k} name)
      if(found STREQUAL name)
        string(JSON value GET "${listing}" tests ${i} properties ${k} value)
        set(${result} "${value}" PARENT_SCOPE)
        return()
      endif()
    endforeach()
    message(FATAL_ERROR "${test} has no ${name}")
  endforeach()
  message(FATAL_ERROR "there is no test ${test}")
endfunction()

function(expect test name wanted)
  property(${test} ${name} value)
  if(NOT value EQUAL wanted)
    message(FATAL_ERROR "${name} of ${test} is ${value} instead of ${wanted}")
  endif()
endfunction()

function(expect_in_environment test wanted)
  property(${test} ENVIRONMENT value)
  string(FIND "${value}" "\"${wanted}\"" at)
  if(at EQUAL -1)
    message(FATAL_ERROR "the environment of ${test} has no ${wanted}: ${value}")
  endif()
endfunction()

# A test ends itself a twentieth of its time before CTest does.
expect(consumer.Consumer.HasAVm TIMEOUT 200)
expect(consumer.Consumer.HasAVm PROCESSORS 2)
expect_in_environment(consumer.Consumer.HasAVm VMTEST_TEST_TIMEOUT=190)
# A suite that shares its VM has the time of its two tests, and each of them a test's.
expect(consumer.SharedConsumer TIMEOUT 400)
expect(consumer.SharedConsumer PROCESSORS 2)
expect_in_environment(consumer.SharedConsumer VMTEST_TEST_TIMEOUT=190)
