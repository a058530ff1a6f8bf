# cmake -DPROGRAM=... -DENTITLEMENTS=... -P sign.cmake: signs the helper ad hoc, which is enough for the entitlement without which the
# framework refuses a program, and sees that the program has it.
foreach(file IN ITEMS PROGRAM ENTITLEMENTS)
  if(NOT EXISTS "${${file}}")
    message(FATAL_ERROR "cannot sign the VZ helper: ${file} is '${${file}}', which is not there")
  endif()
endforeach()
execute_process(COMMAND codesign --force --sign - --entitlements "${ENTITLEMENTS}" "${PROGRAM}" COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND codesign --display --entitlements - --xml "${PROGRAM}" OUTPUT_VARIABLE signed ERROR_QUIET)
if(NOT signed MATCHES "com\\.apple\\.security\\.virtualization")
  message(FATAL_ERROR "the VZ helper was signed, but ${PROGRAM} does not have the entitlement com.apple.security.virtualization")
endif()
