# Fails with file:line for each include that points against the layers or leaves its fence:
#   cmake -DROOT=<source folder> -P layering_test.cmake
cmake_minimum_required(VERSION 3.25)

# folder = own folders that it may include, itself included. The longest folder that matches counts.
set(below_scheme core/base core/tensor core/exec core/simd core/stats)
set(allow_core/base core/base)
set(allow_core/tensor core/base core/tensor)
set(allow_core/exec core/base core/exec)
set(allow_core/simd core/base core/tensor core/simd)
set(allow_core/stats core/base core/stats)
set(allow_core/io core/base core/tensor core/io)
set(allow_core/scheme ${below_scheme} core/scheme)
set(allow_core/calibrate ${allow_core/scheme} core/calibrate)
set(allow_core/session ${allow_core/calibrate} core/session)
set(allow_core/algo ${allow_core/session} core/algo)
set(allow_proto core proto quantd)
set(allow_server core proto quantd server)
set(allow_client core proto quantd client)
set(allow_client/in_process.cc core proto quantd client server)
set(own_folders core proto server client tests quantd)

# pattern of an include = regex of the files that may have it.
set(fenced
  "^(grpc|grpcpp|google/protobuf)/" "^(proto|server|client|tests)/"
  "\\.pb\\.h$"                      "^(proto|server|client|tests)/"
  "^(cblas|lapacke?|f77blas)\\.h$"  "^core/stats/blas\\.cc$"
  "^hwy/"                           "^(core|tests)/"
  "^spdlog/"                        "^(server|client/cli|tests)/"
  "^CLI/"                           "^(server|client/cli)/"
  "^re2/"                           "^client/cli/"
  "^fstream$"                       "^(core/io|client/cli|server|tests)/"
  "^fcntl\\.h$"                     "^(core/io|client/cli|server|tests)/")

function(add_violation where what)
  set_property(GLOBAL APPEND PROPERTY violations "${where}: ${what}")
endfunction()

# Sets `out` to the rule that is for `file`: the key after "allow_", or nothing.
function(rule_of file out)
  set(path ${file})
  while(path AND NOT DEFINED allow_${path})
    cmake_path(GET path PARENT_PATH path)
  endwhile()
  set(${out} ${path} PARENT_SCOPE)
endfunction()

function(check_own_layers file line included)
  string(REGEX MATCH "^[^/]+" first_folder ${included})
  if(included MATCHES "/" AND first_folder IN_LIST own_folders)
    rule_of(${file} rule)
    if(NOT rule)
      add_violation("${file}:${line}" "no layer is stated for this folder, add it to layering_test.cmake")
    else()
      set(allowed FALSE)
      foreach(folder IN LISTS allow_${rule})
        string(FIND ${included} ${folder}/ at)
        if(at EQUAL 0)
          set(allowed TRUE)
        endif()
      endforeach()
      if(NOT allowed)
        list(JOIN allow_${rule} " " names)
        add_violation("${file}:${line}" "includes ${included}, but ${rule} may include only ${names}")
      endif()
    endif()
  endif()
endfunction()

function(check_fences file line included)
  set(rest ${fenced})
  while(rest)
    list(POP_FRONT rest pattern files)
    if(included MATCHES "${pattern}" AND NOT file MATCHES "${files}")
      add_violation("${file}:${line}" "includes ${included}, which only ${files} may")
    endif()
  endwhile()
endfunction()

execute_process(
  COMMAND grep -rnE "^[[:space:]]*#[[:space:]]*include" --include=*.h --include=*.cc --include=*.def
          core proto server client tests
  WORKING_DIRECTORY ${ROOT} OUTPUT_VARIABLE found RESULT_VARIABLE grep_result)
if(NOT grep_result EQUAL 0)
  message(FATAL_ERROR "no #include was found under ROOT=${ROOT}")
endif()
string(REGEX REPLACE "[][;]" " " found "${found}")  # what CMake lists would trip over
string(REPLACE "\n" ";" found "${found}")
set(count 0)
foreach(entry IN LISTS found)
  if(NOT entry MATCHES "^([^:]+):([0-9]+):[^<\"]*[<\"]([^>\"]+)[>\"]")
    continue()
  endif()
  set(file ${CMAKE_MATCH_1})
  set(line ${CMAKE_MATCH_2})
  set(included ${CMAKE_MATCH_3})
  math(EXPR count "${count} + 1")
  if(NOT file MATCHES "^tests/")
    check_own_layers(${file} ${line} ${included})
  endif()
  check_fences(${file} ${line} ${included})
endforeach()

get_property(violations GLOBAL PROPERTY violations)
if(violations)
  list(JOIN violations "\n  " text)
  message(FATAL_ERROR "layering is violated:\n  ${text}")
endif()
message(STATUS "${count} includes follow the layers")
