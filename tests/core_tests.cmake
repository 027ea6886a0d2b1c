# The tests of core/, for the whole project and for tests/aarch64.
find_package(GTest REQUIRED)
include(GoogleTest)
set(quantd_tests_dir ${CMAKE_CURRENT_LIST_DIR})
# What tests compute themselves is compared bit for bit, on machines that fuse a multiply and an add too.
add_compile_options(-ffp-contract=off)

# The tests of each folder are one program; what several share lies in tests/support.
file(GLOB support_sources CONFIGURE_DEPENDS ${quantd_tests_dir}/support/*.cc)
add_library(quantd_test_support STATIC ${support_sources})
target_link_libraries(quantd_test_support PUBLIC quantd_core GTest::gtest GTest::gmock)

function(quantd_test_folder name folder)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${quantd_tests_dir}/${folder}/*_test.cc)
  if(NOT sources)
    return()
  endif()
  add_executable(${name} ${sources})
  target_link_libraries(${name} PRIVATE quantd_test_support ${ARGN} GTest::gtest GTest::gmock GTest::gtest_main)
  if(NOT QUANTD_SANITIZE)
    gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST PROPERTIES TIMEOUT 600)
    return()
  endif()
  # A sanitized program takes longer to start than most tests to run: they share a few starts.
  foreach(shard RANGE 0 15)
    add_test(NAME ${name}.${shard}_of_16 COMMAND ${name})
    set_tests_properties(${name}.${shard}_of_16 PROPERTIES
      TIMEOUT 1200 ENVIRONMENT "GTEST_TOTAL_SHARDS=16;GTEST_SHARD_INDEX=${shard};GTEST_BRIEF=1")
  endforeach()
endfunction()

set_source_files_properties(${quantd_tests_dir}/core/io/safetensors_test.cc PROPERTIES
  COMPILE_DEFINITIONS QUANTD_TEST_DATA="${quantd_tests_dir}/data")
set_source_files_properties(${quantd_tests_dir}/core/scheme/golden_test.cc PROPERTIES
  COMPILE_DEFINITIONS QUANTD_TEST_GOLDEN="${quantd_tests_dir}/golden")
foreach(folder base tensor exec simd stats scheme calibrate session io)
  quantd_test_folder(core_${folder}_test core/${folder} quantd_core)
endforeach()
