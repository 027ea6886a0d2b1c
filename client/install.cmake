# What `cmake --install` puts in place for programs that use the client library:
#   find_package(quantd REQUIRED)                       # or with COMPONENTS in_process
#   target_link_libraries(program PRIVATE quantd::client)  # or quantd::in_process
include(CMakePackageConfigHelpers)

# Sets `out` to the headers that are given and all of ours that they include, as paths below the
# source folder, so that no list of them has to be kept.
function(quantd_headers_of out)
  set(seen)
  set(pending ${ARGN})
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
quantd_headers_of(headers client/client.h client/model_file.h client/in_process.h)
foreach(header IN LISTS headers)
  cmake_path(GET header PARENT_PATH folder)
  install(FILES ${PROJECT_SOURCE_DIR}/${header} DESTINATION ${include_folder}/${folder})
endforeach()
install(DIRECTORY ${PROJECT_BINARY_DIR}/proto/generated/quantd DESTINATION ${include_folder}
        FILES_MATCHING PATTERN "*.h")

set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/quantd)
# The server's library and what that needs is a component of its own: who talks to a server needs
# neither spdlog nor prometheus-cpp.
set(client_targets core proto client)
set(in_process_targets error_proto server in_process)
foreach(set client in_process)
  foreach(name IN LISTS ${set}_targets)
    set_target_properties(quantd_${name} PROPERTIES EXPORT_NAME ${name})
    install(TARGETS quantd_${name} EXPORT quantd_${set} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
            INCLUDES DESTINATION ${include_folder})
  endforeach()
  install(EXPORT quantd_${set} FILE quantd_${set}.cmake NAMESPACE quantd::
          DESTINATION ${package_folder})
endforeach()
configure_package_config_file(client/quantdConfig.cmake.in ${PROJECT_BINARY_DIR}/quantdConfig.cmake
                              INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/quantdConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/quantdConfig.cmake ${PROJECT_BINARY_DIR}/quantdConfigVersion.cmake
        DESTINATION ${package_folder})
