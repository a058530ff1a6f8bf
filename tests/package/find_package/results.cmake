# What CTest says of a test that fails and of one that skips.

cmake_minimum_required(VERSION 3.25)

set(ENV{CONSUMER_FAILS} 1)
execute_process(COMMAND ${CTEST} --test-dir ${BUILD} --tests-regex "^consumer\\.ConsumerResult\\." OUTPUT_VARIABLE said ERROR_VARIABLE said)
foreach(wanted "FailsWhenTold [ .]*\\*\\*\\*Failed" "Skips [ .]*\\*\\*\\*Skipped")
  if(NOT said MATCHES "consumer\\.ConsumerResult\\.${wanted}")
    message(FATAL_ERROR "no ${wanted} in:\n${said}")
  endif()
endforeach()
