# What `cmake --install` puts in place for programs that use the client library:
#   find_package(quantd REQUIRED)
#   target_link_libraries(program PRIVATE quantd::client)
include(CMakePackageConfigHelpers)

# Sets `out` to the header `header` and all of ours that it includes, as paths below the source
# folder, so that no list of them has to be kept.
function(quantd_headers_of header out)
  set(seen)
  set(pending ${header})
  while(pending)
    list(POP_FRONT pending current)
    list(APPEND seen ${current})
    file(STRINGS ${PROJECT_SOURCE_DIR}/${current} lines REGEX "^#include \"(core|client|proto)/")
    foreach(line IN LISTS lines)
      string(REGEX REPLACE "^#include \"([^\"]+)\".*" "\\1" included "${line}")
      if(NOT included IN_LIST seen AND NOT included IN_LIST pending)
        list(APPEND pending ${included})
      endif()
    endforeach()
  endwhile()
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${seen})
  set(${out} ${seen} PARENT_SCOPE)
endfunction()

# The sources' own include paths stay valid below this folder.
set(include_folder ${CMAKE_INSTALL_INCLUDEDIR}/quantd)
quantd_headers_of(client/client.h headers)
foreach(header IN LISTS headers)
  cmake_path(GET header PARENT_PATH folder)
  install(FILES ${PROJECT_SOURCE_DIR}/${header} DESTINATION ${include_folder}/${folder})
endforeach()
install(DIRECTORY ${PROJECT_BINARY_DIR}/proto/generated/quantd DESTINATION ${include_folder}
        FILES_MATCHING PATTERN "*.h")

set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/quantd)
set_target_properties(quantd_core PROPERTIES EXPORT_NAME core)
set_target_properties(quantd_proto PROPERTIES EXPORT_NAME proto)
set_target_properties(quantd_client PROPERTIES EXPORT_NAME client)
install(TARGETS quantd_core quantd_proto quantd_client EXPORT quantdTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} INCLUDES DESTINATION ${include_folder})
install(EXPORT quantdTargets NAMESPACE quantd:: DESTINATION ${package_folder})
configure_package_config_file(client/quantdConfig.cmake.in ${PROJECT_BINARY_DIR}/quantdConfig.cmake
                              INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/quantdConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/quantdConfig.cmake ${PROJECT_BINARY_DIR}/quantdConfigVersion.cmake
        DESTINATION ${package_folder})
