# Running tests over a driver that is not this host's usual one.

# How GoogleTest's output ends when every test of a program skipped; when all failed, no test passed either.
set(vmtest_all_skipped "\\[  PASSED  \\] 0 tests\\.\n(\\[  SKIPPED \\] [^\n]*\n)+\n*$")

# vmtest_driver_launcher(DRIVER RESULT): what stands in front of a test's command to run it over a driver: with what stands in for its
# hypervisor, where the environment of ctest names none. Empty where nothing does.
function(vmtest_driver_launcher driver result)
  set(support ${PROJECT_SOURCE_DIR}/tests/support)
  set(stand_in)
  if(driver MATCHES "^cloud-hypervisor")
    set(stand_in VMTEST_CLOUD_HYPERVISOR=${support}/cloud_hypervisor/cloud-hypervisor
      VMTEST_CLOUD_HYPERVISOR_FIRMWARE=/usr/share/OVMF/OVMF_CODE_4M.fd)
  elseif(driver STREQUAL propolis)
    set(stand_in VMTEST_PROPOLIS=${support}/propolis/propolis-server)
  elseif(driver STREQUAL vz AND TARGET vmtest_vz_helper_simulated_arm64)
    set(leases ${PROJECT_BINARY_DIR}/tests/support/vz/dhcpd_leases)
    set(stand_in VMTEST_VZ_HELPER=${PROJECT_BINARY_DIR}/tests/support/vz/vmtest-vz-helper-simulated
      VMTEST_SIM_VZ_LEASES=${leases} VMTEST_DHCPD_LEASES=${leases})
  endif()
  set(launcher)
  if(stand_in)
    set(launcher ${support}/with_stand_in ${stand_in} --)
  elseif(driver MATCHES "^(qemu|noop)$")
    set(launcher env)  # nothing stands in for these
  endif()
  set(${result} ${launcher} PARENT_SCOPE)
endfunction()

# vmtest_driver_test(DRIVER TARGET [LONG] [TIMEOUT SECONDS] [PROCESSORS N] [FILTER FILTER]): all tests of a program, or some, over a
# driver, as one test. LONG: it is run by `ctest -C long` only.
function(vmtest_driver_test driver target)
  cmake_parse_arguments(DRIVER "LONG" "TIMEOUT;PROCESSORS;FILTER" "" ${ARGN})
  if(NOT DRIVER_FILTER)
    set(DRIVER_FILTER *)
  endif()
  if(NOT DRIVER_PROCESSORS)
    set(DRIVER_PROCESSORS 1)
  endif()
  vmtest_driver_launcher(${driver} launcher)
  if(NOT launcher)
    return()
  endif()
  set(configurations)
  if(DRIVER_LONG)
    set(configurations CONFIGURATIONS long)
  endif()
  add_test(NAME driver_${driver}.${target} COMMAND ${launcher} $<TARGET_FILE:${target}> --gtest_filter=${DRIVER_FILTER} ${configurations})
  set_tests_properties(driver_${driver}.${target} PROPERTIES LABELS vm TIMEOUT ${DRIVER_TIMEOUT} COST ${DRIVER_TIMEOUT}
    PROCESSORS ${DRIVER_PROCESSORS}
    ENVIRONMENT "VMTEST_DRIVER=${driver};VMTEST_SUPERVISOR=$<TARGET_FILE:vmtest_supervisor>"
    SKIP_REGULAR_EXPRESSION "${vmtest_all_skipped}")
endfunction()
