#include "nat_network.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <ctime>
#include <exception>
#include <tuple>
#include <utility>

#include "vmtest/error.h"
#include "vmtest/host/process.h"
#include "vmtest/host/socket.h"

namespace vmtest::vz::standin {
namespace {

constexpr std::uint16_t kServerPort = 67;
constexpr std::uint16_t kClientPort = 68;
constexpr const char* kNetmask = "255.255.255.252";

/// Hears what comes by that interface alone: several servers stand beside each other.
FileDescriptor listen_on(const std::string& interface) {
  FileDescriptor socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) throw_errno("cannot make a socket for DHCP");
  const int on = 1;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(kServerPort);
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_BROADCAST, &on, sizeof on) != 0 ||
      ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      ::setsockopt(socket.get(), SOL_SOCKET, SO_BINDTODEVICE, interface.c_str(), static_cast<socklen_t>(interface.size() + 1)) !=
          0 ||
      ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    throw_errno("cannot listen for DHCP on " + interface);
  }
  return socket;
}

}  // namespace

NatNetwork::NatNetwork(std::string lease_file)
    : lease_file_(std::move(lease_file)), tap_(make_tap()), network_(take_tap_network()) {
  configure_interface(tap_.name, network_.subnet.host, kTapPrefixLength);
  socket_ = listen_on(tap_.name);
  std::tie(stop_, stop_end_) = make_socket_pair();
  thread_ = std::thread([this] { serve(); });
}

NatNetwork::~NatNetwork() {
  stop_end_ = {};
  thread_.join();
}

void NatNetwork::serve() {
  const DhcpOffer offer{.server = network_.subnet.host, .address = network_.subnet.guest, .netmask = kNetmask};
  sockaddr_in everybody{};
  everybody.sin_family = AF_INET;
  everybody.sin_port = htons(kClientPort);
  everybody.sin_addr.s_addr = htonl(INADDR_BROADCAST);
  for (;;) {
    pollfd entries[] = {{stop_.get(), POLLIN, 0}, {socket_.get(), POLLIN, 0}};
    if (::poll(entries, 2, -1) < 0 && errno == EINTR) continue;
    if (entries[0].revents != 0) return;
    char buffer[2048];
    const ssize_t count = ::recv(socket_.get(), buffer, sizeof buffer, 0);
    if (count <= 0) continue;
    const auto question = parse_dhcp({buffer, static_cast<std::size_t>(count)});
    if (!question) continue;
    // Before the guest knows: it says at once that it is ready.
    if (question->type == 3) put_down(*question, offer.lease_seconds);
    const std::string answer = answer_dhcp(*question, offer);
    (void)::sendto(socket_.get(), answer.data(), answer.size(), 0, reinterpret_cast<const sockaddr*>(&everybody),
                   sizeof everybody);
  }
}

void NatNetwork::put_down(const DhcpQuestion& question, unsigned lease_seconds) const {
  try {
    // Other VMs' servers write to it too.
    const FileDescriptor file = open_file(lease_file_, O_WRONLY | O_CREAT | O_APPEND, 0644);
    write_all(file.get(), lease_entry(question, network_.subnet.guest, std::time(nullptr) + static_cast<long>(lease_seconds)));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "the lease is not put down: %s\n", error.what());
  }
}

}  // namespace vmtest::vz::standin
