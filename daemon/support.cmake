# What the daemon needs beside its core, as a library of its own, so that it is built and tested without the
# server: configuration, logs, systemd, metrics, what outlives it. Included by CMakeLists.txt of this folder.
include_guard(GLOBAL)

sluice_library(daemon_support
  SOURCES
    "${CMAKE_CURRENT_LIST_DIR}/config.cpp"
    "${CMAKE_CURRENT_LIST_DIR}/config_checks.cpp"
    "${CMAKE_CURRENT_LIST_DIR}/config_findings.cpp"
    "${CMAKE_CURRENT_LIST_DIR}/config_listing.cpp"
    "${CMAKE_CURRENT_LIST_DIR}/config_machine.cpp"
    "${CMAKE_CURRENT_LIST_DIR}/config_reader.cpp"
    "${CMAKE_CURRENT_LIST_DIR}/config_reload.cpp"
    "${CMAKE_CURRENT_LIST_DIR}/config_text.cpp"
    "${CMAKE_CURRENT_LIST_DIR}/config_values.cpp"
    "${CMAKE_CURRENT_LIST_DIR}/descriptor_store.cpp"
    "${CMAKE_CURRENT_LIST_DIR}/keeper_store.cpp"
    "${CMAKE_CURRENT_LIST_DIR}/logging.cpp"
    "${CMAKE_CURRENT_LIST_DIR}/metrics.cpp"
    "${CMAKE_CURRENT_LIST_DIR}/quantity.cpp"
    "${CMAKE_CURRENT_LIST_DIR}/systemd.cpp"
    "${CMAKE_CURRENT_LIST_DIR}/systemd_store.cpp"
  DEPS sluice::ipc sluice::keeper
  PRIVATE_DEPS spdlog::spdlog tomlplusplus::tomlplusplus prometheus-cpp::pull)
