# How targets of Sluice are made: sluice_library, sluice_cuda_library, sluice_executable, sluice_command_line, sluice_test,
# sluice_gpu_test, sluice_fuzzer, sluice_models.
#
# All of them get the language level, the warnings and the sanitizers below, and the repository root as
# include root, so that code says `#include "ipc/ring.h"`. DEPS are targets: `sluice::ipc` for our own,
# and the names listed in Dependencies.cmake for third parties.

option(SLUICE_FUZZ "Build libFuzzer binaries and no tests (clang only)" OFF)
set(SLUICE_SANITIZE "" CACHE STRING "Sanitizers of our own code: empty, address (with undefined) or thread")
set_property(CACHE SLUICE_SANITIZE PROPERTY STRINGS "" address thread)
option(SLUICE_KILL_POINTS "Compile the points at which a crash test ends the process (ipc/kill_point.h)" OFF)
set(SLUICE_FUZZ_SECONDS 5 CACHE STRING "How long ctest runs each fuzzer in a fuzz build")

set(CMAKE_CXX_STANDARD 23)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
# Static libraries of ours end up inside the shared libsluice.
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
set(SLUICE_GENERATED_DIR "${CMAKE_BINARY_DIR}/generated")

find_program(SLUICE_CCACHE ccache)
if(SLUICE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${SLUICE_CCACHE}")
endif()

# The flags of our own targets, in one place.
add_library(sluice_flags INTERFACE)
target_compile_options(sluice_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Wconversion;-Wshadow;-Werror>
  # Assertions and logs name files as the repository does.
  "$<$<COMPILE_LANGUAGE:CXX>:-fmacro-prefix-map=${CMAKE_SOURCE_DIR}/=>"
  # nvcc gives the host compiler code of its own, which -Wpedantic and -Wconversion are not for.
  "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;-Xcompiler=-Wall,-Wextra,-Wshadow,-Werror;-Werror=all-warnings>")
target_include_directories(sluice_flags INTERFACE "${CMAKE_SOURCE_DIR}")
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  if(CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    # GCC bug 105651: `"x" + std::string` warns inside <string>.
    target_compile_options(sluice_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
  endif()
  if(CMAKE_UNITY_BUILD)
    # g++ takes a source that a unity source includes for a header, whose types no other source may define.
    target_compile_options(sluice_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-subobject-linkage>)
  endif()
  if(SLUICE_SANITIZE)
    # Instrumented code hides initializations from the flow analysis of g++; the plain builds warn. -Wtsan
    # tells that tsan does not model fences, which the users of fences must know and cannot change.
    target_compile_options(sluice_flags INTERFACE -Wno-maybe-uninitialized -Wno-tsan)
  endif()
else()
  # clang counts these under the flags above, g++ does not; one code base, one set of rules.
  target_compile_options(sluice_flags INTERFACE
    -Wno-sign-conversion -Wno-missing-designated-field-initializers)
endif()
if(SLUICE_KILL_POINTS)
  target_compile_definitions(sluice_flags INTERFACE SLUICE_KILL_POINTS)
endif()
if(NOT CMAKE_BUILD_TYPE STREQUAL "Release")
  target_compile_definitions(sluice_flags INTERFACE _GLIBCXX_ASSERTIONS)
endif()

set(SLUICE_TEST_LAUNCHER "")
if(SLUICE_FUZZ)
  set(SLUICE_SANITIZER_FLAGS -fsanitize=address,undefined -fno-sanitize-recover=all)
  target_compile_options(sluice_flags INTERFACE -fsanitize=fuzzer-no-link)
elseif(SLUICE_SANITIZE STREQUAL "address")
  set(SLUICE_SANITIZER_FLAGS -fsanitize=address,undefined -fno-sanitize-recover=all)
elseif(SLUICE_SANITIZE STREQUAL "thread")
  set(SLUICE_SANITIZER_FLAGS -fsanitize=thread)
  # The shadow of g++ 12's tsan has no room for 32 bits of address randomization, a default of some kernels.
  set(bits 28)
  if(EXISTS /proc/sys/vm/mmap_rnd_bits)
    execute_process(COMMAND cat /proc/sys/vm/mmap_rnd_bits OUTPUT_VARIABLE bits ERROR_QUIET
                    OUTPUT_STRIP_TRAILING_WHITESPACE)
  endif()
  if(NOT bits MATCHES "^[0-9]+$" OR bits GREATER 28)
    find_program(SLUICE_SETARCH setarch REQUIRED)
    set(SLUICE_TEST_LAUNCHER "${SLUICE_SETARCH}" -R)
  endif()
elseif(SLUICE_SANITIZE)
  message(FATAL_ERROR "SLUICE_SANITIZE is '${SLUICE_SANITIZE}'; it must be empty, address or thread")
endif()
if(SLUICE_SANITIZER_FLAGS)
  target_compile_options(sluice_flags INTERFACE ${SLUICE_SANITIZER_FLAGS} -fno-omit-frame-pointer)
  target_link_options(sluice_flags INTERFACE ${SLUICE_SANITIZER_FLAGS})
endif()

# What tools/test builds in the sanitizer and fuzz presets, and all headers that a tool must generate first.
add_custom_target(tests-asan)
add_custom_target(tests-tsan)
add_custom_target(fuzzers)
add_custom_target(generated-headers)

# sluice_library(NAME [SOURCES file...] [DEPS target...] [PRIVATE_DEPS target...])
# Makes sluice_NAME with the alias sluice::NAME: a static library, or an interface library without SOURCES.
function(sluice_library name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;DEPS;PRIVATE_DEPS")
  sluice_check_arguments(sluice_library)
  set(target sluice_${name})
  if(arg_SOURCES)
    add_library(${target} STATIC ${arg_SOURCES})
    target_link_libraries(${target} PUBLIC sluice_flags ${arg_DEPS} PRIVATE ${arg_PRIVATE_DEPS})
  else()
    if(arg_PRIVATE_DEPS)
      message(FATAL_ERROR "sluice_library(${name}): a header-only library has no PRIVATE_DEPS")
    endif()
    add_library(${target} INTERFACE)
    target_link_libraries(${target} INTERFACE sluice_flags ${arg_DEPS})
  endif()
  add_library(sluice::${name} ALIAS ${target})
endfunction()

# sluice_cuda_library(NAME SOURCES file... [DEPS target...])
# Makes sluice_NAME with the alias sluice::NAME from .cu and .cpp files. Only where SLUICE_CUDA_FOUND. Users
# include its headers as any others; they need no CUDA header.
function(sluice_cuda_library name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;DEPS")
  sluice_check_arguments(sluice_cuda_library)
  set(target sluice_${name})
  add_library(${target} STATIC ${arg_SOURCES})
  target_link_libraries(${target} PUBLIC sluice_flags ${arg_DEPS} PRIVATE CUDA::cudart_static)
  add_library(sluice::${name} ALIAS ${target})
endfunction()

# sluice_executable(NAME SOURCES file... [DEPS target...])
# Makes build/<preset>/bin/NAME.
function(sluice_executable name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;DEPS")
  sluice_check_arguments(sluice_executable)
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE sluice_flags ${arg_DEPS})
endfunction()

# sluice_command_line(file...)
# Sources of the calling folder that use CLI11: its templates cost a minute to optimize under a sanitizer, and run
# once. They are optimized in Release only.
function(sluice_command_line)
  set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS $<$<NOT:$<CONFIG:Release>>:-O0>)
endfunction()

# sluice_test(NAME SOURCES file... [DEPS target...] [NEEDS target...] [LABELS label...] [TIMEOUT seconds]
#             [OPTIMIZED])
# Makes a GoogleTest executable and one ctest entry, run in the repository root. NEEDS names executables
# that the test starts; it finds them beside itself. The labels asan and tsan make tools/test run it in
# those builds too. TIMEOUT is 120 by default. The sources of a test are compiled without optimization, which
# takes half the time; OPTIMIZED is for those that do the work themselves, with headers of ours or many events.
function(sluice_test name)
  if(SLUICE_FUZZ)
    return()
  endif()
  cmake_parse_arguments(PARSE_ARGV 1 arg "OPTIMIZED" "TIMEOUT" "SOURCES;DEPS;NEEDS;LABELS")
  sluice_check_arguments(sluice_test)
  sluice_executable(${name} SOURCES ${arg_SOURCES} DEPS ${arg_DEPS} GTest::gtest GTest::gmock GTest::gtest_main)
  if(NOT arg_OPTIMIZED)
    target_compile_options(${name} PRIVATE -O0 -g1)
  endif()
  if(arg_NEEDS)
    add_dependencies(${name} ${arg_NEEDS})
  endif()
  sluice_register_test(${name} COMMAND $<TARGET_FILE:${name}> --gtest_color=no
                       LABELS ${arg_LABELS} TIMEOUT ${arg_TIMEOUT} TARGETS ${name})
endfunction()

# sluice_gpu_test(NAME SOURCES file... [DEPS target...] [NEEDS target...] [TIMEOUT seconds])
# Makes a GoogleTest executable that needs a GPU, from .cu and .cpp files, where SLUICE_CUDA_FOUND. Without a
# device it is skipped and says so (tests/gpu/require_device.h). It is also part of `tools/bundle --tests`, where
# run-gpu-tests runs it with the same TIMEOUT, in the bundle's folder. NEEDS as in sluice_test.
function(sluice_gpu_test name)
  if(NOT SLUICE_CUDA_FOUND)
    return()
  endif()
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT" "SOURCES;DEPS;NEEDS")
  sluice_check_arguments(sluice_gpu_test)
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 60)
  endif()
  sluice_executable(${name} SOURCES ${arg_SOURCES}
    DEPS ${arg_DEPS} sluice::gpu_test_main GTest::gtest GTest::gmock CUDA::cudart_static)
  if(arg_NEEDS)
    add_dependencies(${name} ${arg_NEEDS})
  endif()
  sluice_register_test(${name} COMMAND $<TARGET_FILE:${name}> --gtest_color=no LABELS gpu TIMEOUT ${arg_TIMEOUT})
  # One at a time: they measure time, and fill the device.
  set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 RESOURCE_LOCK gpu)
  set_property(GLOBAL APPEND PROPERTY SLUICE_GPU_TESTS ${name})
  set_property(GLOBAL APPEND PROPERTY SLUICE_GPU_TEST_TIMEOUTS ${arg_TIMEOUT})
  set_property(GLOBAL APPEND PROPERTY SLUICE_GPU_TEST_NEEDS ${arg_NEEDS})
endfunction()

# sluice_fuzzer(NAME SOURCES file... [DEPS target...])
# The sources define LLVMFuzzerTestOneInput. In the fuzz preset it becomes a libFuzzer binary that ctest runs
# for SLUICE_FUZZ_SECONDS; in the others it is linked with a main that replays tests/fuzz/corpus/NAME and
# a bounded number of pseudo-random inputs. A finding goes into the corpus folder as a regression test.
function(sluice_fuzzer name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;DEPS")
  sluice_check_arguments(sluice_fuzzer)
  set(corpus "${CMAKE_SOURCE_DIR}/tests/fuzz/corpus/${name}")
  if(NOT EXISTS "${corpus}")
    set(corpus "")
  endif()
  if(SLUICE_FUZZ)
    sluice_executable(${name} SOURCES ${arg_SOURCES} DEPS ${arg_DEPS})
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    add_dependencies(fuzzers ${name})
    # libFuzzer adds what it discovers to the first folder: never to the one in the repository.
    set(found "${CMAKE_BINARY_DIR}/corpus/${name}")
    file(MAKE_DIRECTORY "${found}")
    math(EXPR timeout "${SLUICE_FUZZ_SECONDS} + 120")
    sluice_register_test(${name}
      COMMAND $<TARGET_FILE:${name}> -max_total_time=${SLUICE_FUZZ_SECONDS} -timeout=10 -rss_limit_mb=2048
              -print_final_stats=1 "-artifact_prefix=${found}-" "${found}" ${corpus}
      LABELS fuzz TIMEOUT ${timeout})
  else()
    sluice_executable(${name} SOURCES ${arg_SOURCES} "${CMAKE_SOURCE_DIR}/tests/fuzz/replay_main.cpp"
                      DEPS ${arg_DEPS})
    sluice_register_test(${name} COMMAND $<TARGET_FILE:${name}> --random 20000 1 ${corpus}
                         LABELS fuzz asan TARGETS ${name})
  endif()
endfunction()

# sluice_models(NAME [TIMEOUT seconds])
# Makes a ctest entry that checks the spin models of the subfolder `models`; see tests/models/run_models.
function(sluice_models name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT" "")
  sluice_check_arguments(sluice_models)
  if(SLUICE_FUZZ OR SLUICE_SANITIZE)
    return()
  endif()
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  sluice_register_test(${name} LABELS models TIMEOUT ${arg_TIMEOUT} COMMAND Python3::Interpreter
    "${CMAKE_SOURCE_DIR}/tests/models/run_models" "${CMAKE_CURRENT_SOURCE_DIR}/models")
  set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77)
endfunction()

# The one place that registers with ctest. TARGETS are what the sanitizer builds must build for it.
function(sluice_register_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT" "COMMAND;LABELS;TARGETS")
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  add_test(NAME ${name} COMMAND ${SLUICE_TEST_LAUNCHER} ${arg_COMMAND} WORKING_DIRECTORY "${CMAKE_SOURCE_DIR}")
  set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT} LABELS "${arg_LABELS}" ENVIRONMENT
    "ASAN_OPTIONS=abort_on_error=1;UBSAN_OPTIONS=abort_on_error=1:print_stacktrace=1;TSAN_OPTIONS=halt_on_error=1:suppressions=${CMAKE_SOURCE_DIR}/tests/tsan.supp")
  if(arg_TARGETS)
    foreach(label IN LISTS arg_LABELS)
      if(label MATCHES "^(asan|tsan)$")
        add_dependencies(tests-${label} ${arg_TARGETS})
      endif()
    endforeach()
  endif()
endfunction()

# A misspelled keyword is an error instead of a silently ignored argument.
macro(sluice_check_arguments caller)
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "${caller}(${name}): unknown arguments: ${arg_UNPARSED_ARGUMENTS}")
  endif()
endmacro()
