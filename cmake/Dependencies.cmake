# Third parties, all from the distribution's packages (tools/install-deps), found once. Debian 12 and Ubuntu
# 24.04 name some of them differently; these targets do not:
#
#   Threads::Threads   Boost::headers (Asio)   flatbuffers::headers   uring::uring   RocksDB::rocksdb
#   spdlog::spdlog   CLI11::CLI11   tomlplusplus::tomlplusplus   nlohmann_json::nlohmann_json
#   prometheus-cpp::core   prometheus-cpp::pull   zstd::zstd   xxhash::xxhash
#   GTest::gtest   GTest::gmock   GTest::gtest_main   benchmark::benchmark
#
# Who may use which is DESIGN §3, held by tools/checks/include-arrows.

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
find_package(Boost 1.74 REQUIRED)
find_package(spdlog CONFIG REQUIRED)
find_package(CLI11 CONFIG REQUIRED)
find_package(tomlplusplus CONFIG REQUIRED)
find_package(nlohmann_json CONFIG REQUIRED)
find_package(GTest CONFIG REQUIRED)
find_package(benchmark CONFIG REQUIRED)

# Packages without a CMake package, or with one that asks for more than the package installs.
# sluice_find_library(TARGET HEADER [LIBRARY]): LIBRARY is left out for header-only ones.
function(sluice_find_library target header)
  string(MAKE_C_IDENTIFIER "SLUICE_${target}" id)
  find_path(${id}_INCLUDE "${header}" REQUIRED)
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  target_include_directories(${target} SYSTEM INTERFACE "${${id}_INCLUDE}")
  if(ARGN)
    find_library(${id}_LIBRARY ${ARGN} REQUIRED)
    target_link_libraries(${target} INTERFACE "${${id}_LIBRARY}")
  endif()
  mark_as_advanced(${id}_INCLUDE ${id}_LIBRARY)
endfunction()

sluice_find_library(flatbuffers::headers flatbuffers/flatbuffers.h)
sluice_find_library(uring::uring liburing.h uring)
sluice_find_library(RocksDB::rocksdb rocksdb/db.h rocksdb)
sluice_find_library(zstd::zstd zstd.h zstd)
sluice_find_library(xxhash::xxhash xxhash.h xxhash)
sluice_find_library(prometheus-cpp::core prometheus/registry.h prometheus-cpp-core)
sluice_find_library(prometheus-cpp::pull prometheus/exposer.h prometheus-cpp-pull)
target_link_libraries(prometheus-cpp::pull INTERFACE prometheus-cpp::core)

# CUDA is optional: found, the cuda backend is built (DESIGN §2). Its libraries are linked statically, and
# the driver's functions are looked up at run time, so that the programs start where there is no driver.
option(SLUICE_CUDA "Build the cuda backend, if nvcc is found" ON)
set(SLUICE_CUDA_FOUND OFF)
if(SLUICE_CUDA AND NOT SLUICE_SANITIZE AND NOT SLUICE_FUZZ AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  include(CheckLanguage)
  if(NOT CMAKE_CUDA_COMPILER AND EXISTS /usr/local/cuda/bin/nvcc)
    set(CMAKE_CUDA_COMPILER /usr/local/cuda/bin/nvcc)
  endif()
  # Machine code for Hopper; all others from Ampere on compile the intermediate code when they load it.
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-virtual 90-real)
  endif()
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    find_package(CUDAToolkit 12.8 REQUIRED)
    if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know what nvcc has since 12.0
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
    set(CMAKE_CUDA_STANDARD 20)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    if(SLUICE_CCACHE)
      set(CMAKE_CUDA_COMPILER_LAUNCHER "${SLUICE_CCACHE}")
    endif()
    set(SLUICE_CUDA_FOUND ON)
  else()
    message(STATUS "nvcc was not found: the cuda backend is not built")
  endif()
endif()

find_program(SLUICE_FLATC flatc REQUIRED)

# sluice_flatbuffers(TARGET SCHEMA)
# Generates <folder>/<schema>_generated.h into the build tree from a schema of the calling folder, and gives
# it to TARGET and its users as a system header: `#include "ipc/wire_generated.h"`.
function(sluice_flatbuffers target schema)
  cmake_path(GET schema STEM stem)
  file(RELATIVE_PATH folder "${CMAKE_SOURCE_DIR}" "${CMAKE_CURRENT_SOURCE_DIR}")
  set(out "${SLUICE_GENERATED_DIR}/${folder}")
  set(header "${out}/${stem}_generated.h")
  add_custom_command(
    OUTPUT "${header}"
    COMMAND "${SLUICE_FLATC}" --cpp --scoped-enums --cpp-std c++17 -o "${out}"
            "${CMAKE_CURRENT_SOURCE_DIR}/${schema}"
    MAIN_DEPENDENCY "${schema}"
    COMMENT "Generating ${folder}/${stem}_generated.h"
    VERBATIM)
  add_custom_target(${target}_${stem}_fbs DEPENDS "${header}")
  add_dependencies(generated-headers ${target}_${stem}_fbs)
  add_dependencies(${target} ${target}_${stem}_fbs)
  get_target_property(type ${target} TYPE)
  set(scope PUBLIC)
  if(type STREQUAL "INTERFACE_LIBRARY")
    set(scope INTERFACE)
  endif()
  target_include_directories(${target} SYSTEM ${scope} "${SLUICE_GENERATED_DIR}")
  target_link_libraries(${target} ${scope} flatbuffers::headers)
endfunction()
