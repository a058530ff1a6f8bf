#include "dhcp_messages.h"

#include <arpa/inet.h>

#include <cstdint>
#include <cstdio>
#include <cstring>

namespace vmtest::vz::standin {
namespace {

constexpr std::size_t kHead = 236;
constexpr std::size_t kYourAddress = 16;
constexpr std::size_t kServerAddress = 20;
constexpr std::size_t kHardwareAddress = 28;
constexpr std::string_view kCookie("\x63\x82\x53\x63", 4);
constexpr unsigned char kEnd = 255;
/// Some clients drop what is shorter than a BOOTP message.
constexpr std::size_t kShortest = 300;

std::string packed(const std::string& address) {
  std::string bytes(4, '\0');
  ::inet_pton(AF_INET, address.c_str(), bytes.data());
  return bytes;
}

std::string packed(std::uint32_t number) {
  number = htonl(number);
  std::string bytes(4, '\0');
  std::memcpy(bytes.data(), &number, sizeof number);
  return bytes;
}

void add(std::string& message, unsigned char option, std::string_view value) {
  message += static_cast<char>(option);
  message += static_cast<char>(value.size());
  message += value;
}

}  // namespace

std::optional<DhcpQuestion> parse_dhcp(std::string_view message) {
  if (message.size() < kHead + kCookie.size() || message[0] != 1 || message.substr(kHead, kCookie.size()) != kCookie) {
    return std::nullopt;
  }
  DhcpQuestion question{std::string(message.substr(0, kHead))};
  std::string_view options = message.substr(kHead + kCookie.size());
  while (!options.empty() && static_cast<unsigned char>(options[0]) != kEnd) {
    const auto option = static_cast<unsigned char>(options[0]);
    if (option == 0) {
      options.remove_prefix(1);
      continue;
    }
    if (options.size() < 2) return std::nullopt;
    const std::size_t size = static_cast<unsigned char>(options[1]);
    if (options.size() < 2 + size) return std::nullopt;
    const std::string_view value = options.substr(2, size);
    if (option == 53 && size == 1) question.type = static_cast<unsigned char>(value[0]);
    if (option == 12) question.hostname = value;
    if (option == 61) question.identifier = value;
    options.remove_prefix(2 + size);
  }
  if (question.type != 1 && question.type != 3) return std::nullopt;
  if (question.identifier.empty()) question.identifier = '\1' + question.head.substr(kHardwareAddress, 6);
  return question;
}

std::string answer_dhcp(const DhcpQuestion& question, const DhcpOffer& offer) {
  std::string message = question.head;
  message[0] = 2;
  message.replace(kYourAddress, 4, packed(offer.address));
  message.replace(kServerAddress, 4, packed(offer.server));
  message += kCookie;
  add(message, 53, std::string(1, question.type == 1 ? 2 : 5));
  add(message, 54, packed(offer.server));
  add(message, 51, packed(offer.lease_seconds));
  add(message, 1, packed(offer.netmask));
  add(message, 3, packed(offer.server));
  message += static_cast<char>(kEnd);
  if (message.size() < kShortest) message.resize(kShortest, '\0');
  return message;
}

std::string lease_entry(const DhcpQuestion& question, const std::string& address, long expiry) {
  const auto hexadecimal = [](unsigned long number) {
    char text[32];
    std::snprintf(text, sizeof text, "%lx", number);
    return std::string(text);
  };
  std::string hardware;
  for (std::size_t i = 0; i < question.identifier.size(); ++i) {
    hardware += (i == 0 ? "" : i == 1 ? "," : ":") + hexadecimal(static_cast<unsigned char>(question.identifier[i]));
  }
  return "{\n\tname=" + question.hostname + "\n\tip_address=" + address + "\n\thw_address=" + hardware +
         "\n\tidentifier=" + hardware + "\n\tlease=0x" + hexadecimal(static_cast<unsigned long>(expiry)) + "\n}\n";
}

}  // namespace vmtest::vz::standin
