#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace vmtest {

/// Makes text of a guest harmless for terminals and CI logs: escape sequences and control characters are taken out, and
/// what a CI system would obey as a command ("::set-output", "##[error]", "##vso[", "##teamcity[") is broken.
[[nodiscard]] std::string sanitize_console(std::string_view text);
/// Whether all of `text` is UTF-8 (RFC 3629).
[[nodiscard]] bool is_utf8(std::string_view text);
/// The last `lines` lines.
[[nodiscard]] std::string last_lines(std::string_view text, std::size_t lines);
/// `text` with `prefix` in front of every line.
[[nodiscard]] std::string indent(std::string_view text, std::string_view prefix);
/// Throws Error unless `name` can name a VM or image: 1-64 letters, digits, '-', '_', '.', not starting with '-' or '.'.
void require_name(std::string_view name, std::string_view what);
/// `text` made into such a name: other characters become '-'.
[[nodiscard]] std::string make_name(std::string_view text);
/// 128 random bits as 32 hex digits, from the kernel.
[[nodiscard]] std::string random_hex(std::size_t digits = 32);
/// A random UUID, version 4.
[[nodiscard]] std::string random_uuid();
/// Base64 of any bytes (RFC 4648), on one line.
[[nodiscard]] std::string base64(std::string_view data);
/// A random locally administered unicast MAC address.
[[nodiscard]] std::string random_mac();
/// Lower-case hex SHA-256.
[[nodiscard]] std::string sha256(std::string_view data);
/// SHA-256 of a file's content. Throws std::system_error.
[[nodiscard]] std::string sha256_file(const std::filesystem::path& path);
/// Whether `text` is an IPv4 or IPv6 address.
[[nodiscard]] bool is_ip_address(const std::string& text);

}  // namespace vmtest
