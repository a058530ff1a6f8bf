#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace vmtest::propolis {

/// Where servers come from, as the environment says it; see PropolisDriver.
struct Settings {
  enum class Source { Program, Running, Zone };
  Source source = Source::Program;
  std::filesystem::path program = {};
  std::filesystem::path bootrom = {};
  /// Of a running server, or of one in a zone.
  std::string host = {};
  std::uint16_t port = 0;
  std::string brand = {};
  std::string snapshot = {};
  std::string dataset = {};
  /// Over which VNICs are made; empty where TAPs stand for them.
  std::string link = {};
};

/// Reads them, and looks that programs and files are there. Throws Error with the mend.
[[nodiscard]] Settings read_settings();
/// Takes "10.0.0.7:12400" or "[::1]:12400" apart. Throws Error naming `what`.
void parse_address(const std::string& text, const std::string& what, std::string& host, std::uint16_t& port);
/// Throws Error for a boot ROM that propolis-server would abort over: one that is missing, longer than 2 MiB, or no multiple of
/// a page.
void check_bootrom(const std::filesystem::path& bootrom);
/// The keeper's program: VMTEST_PROPOLIS_KEEPER, else found like the supervisor's.
[[nodiscard]] std::filesystem::path find_keeper();

}  // namespace vmtest::propolis
