# Run by cpack between installing into its folder and packing that: what differs between the packages.
#
# The .deb: /etc instead of /usr/etc, and no RPATH, since its libraries are the distribution's.
# The .tar.zst: the shared libraries that it brings along; tools/bundle adds and checks them.
set(stage "${CPACK_TEMPORARY_DIRECTORY}")
# cpack strips programs; of archives the debug information is several times the code.
file(GLOB_RECURSE archives "${stage}/*.a")
if(archives)
  execute_process(COMMAND strip --strip-debug ${archives} COMMAND_ERROR_IS_FATAL ANY)
endif()
if(CPACK_GENERATOR STREQUAL "DEB")
  file(RENAME "${stage}/usr/etc" "${stage}/etc")
  file(GLOB programs "${stage}/usr/bin/*")
  foreach(program IN LISTS programs)
    file(RPATH_REMOVE FILE "${program}")
  endforeach()
else()
  execute_process(COMMAND "${CPACK_SLUICE_BUNDLE}" --complete "${stage}" ${CPACK_SLUICE_LIMITS}
                  COMMAND_ERROR_IS_FATAL ANY)
endif()
