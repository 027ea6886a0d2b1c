# What `cmake --install` puts in place beside the client library (client/install.cmake), and the
# Debian package that `cpack` makes of it all in the build folder.
install(TARGETS quantd quantctl)

find_program(QUANTD_HELP2MAN help2man)
if(QUANTD_HELP2MAN)
  set(man_folder ${PROJECT_BINARY_DIR}/man)
  add_custom_command(
    OUTPUT ${man_folder}/quantd.8.gz
    COMMAND ${CMAKE_CURRENT_LIST_DIR}/make-man-pages.sh $<TARGET_FILE:quantd>
            $<TARGET_FILE:quantctl> ${man_folder}
    DEPENDS quantd quantctl ${CMAKE_CURRENT_LIST_DIR}/make-man-pages.sh
    VERBATIM)
  add_custom_target(man_pages ALL DEPENDS ${man_folder}/quantd.8.gz)
  install(DIRECTORY ${man_folder}/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man8
          FILES_MATCHING PATTERN "*.8.gz")
  install(DIRECTORY ${man_folder}/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man1
          FILES_MATCHING PATTERN "*.1.gz")
endif()

set(completions ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
foreach(program quantctl quantd)
  install(FILES ${CMAKE_CURRENT_LIST_DIR}/package/quantctl.bash-completion
          DESTINATION ${completions} RENAME ${program})
endforeach()
install(FILES ${PROJECT_SOURCE_DIR}/CHANGELOG.md ${PROJECT_SOURCE_DIR}/README.md
              ${CMAKE_CURRENT_LIST_DIR}/package/copyright
        DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/quantd)
install(FILES ${CMAKE_CURRENT_LIST_DIR}/alerts.yml ${CMAKE_CURRENT_LIST_DIR}/grafana-dashboard.json
        DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/quantd/examples)

install(FILES ${CMAKE_CURRENT_LIST_DIR}/package/quantd.service DESTINATION lib/systemd/system)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME quantd)
set(CPACK_PACKAGE_CONTACT "quantd maintainers <maintainers@quantd.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "tensor quantization server, client library and program")
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
    "Packs tensors in int8, fp16 and other schemes over gRPC, with scales,
error figures and checksums. Has the server quantd, the program quantctl,
which also works alone, and the C++ client library.")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
# The example, but with a socket for the members of the group quantd. Outside the prefix, so not for
# `cmake --install`.
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/quantd.toml)
file(READ ${CMAKE_CURRENT_LIST_DIR}/quantd.toml settings)
string(REPLACE [=[listen = ["127.0.0.1:7717"]]=]
               [=[listen = ["127.0.0.1:7717", "unix:/run/quantd/quantd.sock"]]=] settings "${settings}")
string(REPLACE " These are the defaults.\n" " These are the\n# defaults, with a socket beside them.\n"
               settings "${settings}")
file(WRITE ${PROJECT_BINARY_DIR}/etc/quantd/quantd.toml "${settings}")
set(CPACK_INSTALLED_DIRECTORIES ${PROJECT_BINARY_DIR}/etc /etc)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS adduser)
set(CPACK_DEBIAN_PACKAGE_SUGGESTS
    "libgrpc++-dev, libhwy-dev, libisal-dev, libopenblas-dev, libspdlog-dev, libssl-dev, libxxhash-dev, pkg-config, prometheus-cpp-dev, protobuf-compiler-grpc")
set(control ${CMAKE_CURRENT_LIST_DIR}/package)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA
    ${control}/conffiles ${control}/postinst ${control}/prerm ${control}/postrm)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
include(CPack)
