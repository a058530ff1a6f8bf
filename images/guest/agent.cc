#include "guest/agent.h"

#include <fcntl.h>
#include <linux/random.h>
#include <linux/vm_sockets.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

#include "guest/console.h"
#include "guest/json.h"
#include "guest/network.h"

namespace vmtest::guest {
namespace {

constexpr const char* kPorts = "/sys/class/virtio-ports";
constexpr std::size_t kLongestLine = 1 << 20;
constexpr long long kNanosecondsPerSecond = 1000000000;
constexpr const char* kMachineIdFile = "/etc/machine-id";
/// Hosts that never hang up would take the guest's descriptors.
constexpr std::size_t kMostStreams = 16;

std::string quote(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : one_line(text)) {
    if (c == '"' || c == '\\') {
      quoted += '\\';
    }
    quoted += c;
  }
  return quoted + "\"";
}

std::string text_member(const Json& request, const char* name) {
  const Json* member = request.find(name);
  return member == nullptr ? std::string() : member->string(name);
}

/// Credits the bytes and has the kernel make its generator's key anew from them, at once.
void reseed(const std::string& entropy) {
  const Descriptor device(::open("/dev/urandom", O_RDWR | O_CLOEXEC));
  if (!device) {
    fail_errno("cannot open /dev/urandom");
  }
  std::vector<char> buffer(sizeof(rand_pool_info) + entropy.size());
  auto* pool = reinterpret_cast<rand_pool_info*>(buffer.data());
  pool->entropy_count = static_cast<int>(entropy.size() * 8);
  pool->buf_size = static_cast<int>(entropy.size());
  std::memcpy(buffer.data() + sizeof(rand_pool_info), entropy.data(), entropy.size());
  if (ioctl(device.get(), RNDADDENTROPY, pool) != 0) {
    fail_errno("cannot add entropy");
  }
  if (ioctl(device.get(), RNDRESEEDCRNG) != 0) {
    fail_errno("cannot reseed the random numbers");
  }
}

long long monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * kNanosecondsPerSecond + now.tv_nsec;
}

/// Returns when that was, by the monotonic clock.
long long set_clock(long long time_ns) {
  const timespec now{static_cast<time_t>(time_ns / kNanosecondsPerSecond), static_cast<long>(time_ns % kNanosecondsPerSecond)};
  if (clock_settime(CLOCK_REALTIME, &now) != 0) {
    fail_errno("cannot set the clock");
  }
  return monotonic_ns();
}

std::optional<long long> parse_time(const Json& request) {
  const std::string time = text_member(request, "time_ns");
  return time.empty() ? std::nullopt : std::optional(std::strtoll(time.c_str(), nullptr, 10));
}

Refresh parse_refresh(const Json& request) {
  Refresh refresh;
  refresh.time_ns = parse_time(request);
  const std::optional<std::string> entropy = decode_base64(text_member(request, "entropy"));
  if (!entropy || entropy->empty()) {
    throw std::runtime_error("entropy: must be Base64 of some bytes");
  }
  refresh.entropy = *entropy;
  refresh.hostname = text_member(request, "hostname");
  refresh.machine_id = text_member(request, "machine_id");
  if (const std::string to = text_member(request, "new_address"); !to.empty()) {
    refresh.address = {text_member(request, "old_address"), to, text_member(request, "old_gateway"),
                       text_member(request, "new_gateway")};
  }
  refresh.host_key = {text_member(request, "host_key"), text_member(request, "host_key_public")};
  return refresh;
}

/// To a socket without the signal for one whose reader has gone.
ssize_t send_or_write(const Descriptor& stream, std::string_view text) {
  const ssize_t sent = send(stream.get(), text.data(), text.size(), MSG_NOSIGNAL);
  return sent < 0 && errno == ENOTSOCK ? write(stream.get(), text.data(), text.size()) : sent;
}

void rename_host(const std::string& hostname) {
  if (sethostname(hostname.c_str(), hostname.size()) != 0) {
    fail_errno("cannot set the host name " + hostname);
  }
  overwrite_file("/etc/hostname", hostname + "\n", 0644);
  overwrite_file("/etc/hosts", rename_in_hosts(find_file("/etc/hosts").value_or(""), hostname), 0644);
}

}  // namespace

std::string rename_in_hosts(std::string_view hosts, const std::string& hostname) {
  const std::string short_name = hostname.substr(0, hostname.find('.'));
  const std::string own = "127.0.1.1\t" + hostname + (short_name == hostname ? "" : " " + short_name) + "\n";
  std::string text;
  bool named = false;
  for (const std::string_view line : split(hosts, "\n")) {
    const std::vector<std::string_view> words = split(line, " \t");
    const bool is_own = !words.empty() && words.front() == "127.0.1.1";
    if (!is_own) {
      text += std::string(line) + "\n";
    } else if (!named) {
      text += own;
      named = true;
    }
  }
  return named ? text : text + own;
}

std::optional<long long> apply_refresh(const Refresh& refresh) {
  std::optional<long long> clock_set;
  reseed(refresh.entropy);
  if (refresh.time_ns) {
    clock_set = set_clock(*refresh.time_ns);
  }
  if (!refresh.hostname.empty()) {
    rename_host(refresh.hostname);
  }
  if (!refresh.machine_id.empty()) {
    overwrite_file(kMachineIdFile, refresh.machine_id + "\n", 0444);
  }
  if (refresh.address) {
    readdress(*refresh.address);
  }
  return clock_set;
}

bool Agent::open_port(std::string_view name) {
  for (const std::string& port : list_folder(kPorts)) {
    if (trim(find_file(std::string(kPorts) + "/" + port + "/name").value_or("")) != name) {
      continue;
    }
    Descriptor device(::open(("/dev/" + port).c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (!device) {
      fail_errno("cannot open the agent's port " + port);
    }
    attach(std::move(device));
    return true;
  }
  return false;
}

bool Agent::listen_on_vsock(unsigned port) {
  const Descriptor device(::open("/dev/vsock", O_RDONLY | O_CLOEXEC));
  unsigned cid = VMADDR_CID_ANY;
  // Without a device of the machine there is nothing but the guest's own loopback.
  if (!device || ioctl(device.get(), IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) != 0 || cid == VMADDR_CID_ANY ||
      cid == VMADDR_CID_LOCAL) {
    return false;
  }
  Descriptor listener(socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_port = port;
  address.svm_cid = VMADDR_CID_ANY;
  if (!listener || bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener.get(), SOMAXCONN) != 0) {
    fail_errno("cannot listen on the agent's vsock port " + std::to_string(port));
  }
  listen(std::move(listener));
  return true;
}

bool Agent::open() { return open_port(kAgentPort) || listen_on_vsock(kAgentVsockPort); }

void Agent::wait_for(const Descriptor& descriptor) {
  if (!events_) {
    events_ = Descriptor(epoll_create1(EPOLL_CLOEXEC));
  }
  epoll_event wanted{};
  // A port without anybody at its other end would wake us without end.
  wanted.events = EPOLLIN | EPOLLOUT | EPOLLET;
  if (!events_ || epoll_ctl(events_.get(), EPOLL_CTL_ADD, descriptor.get(), &wanted) != 0) {
    fail_errno("cannot wait for the agent's host");
  }
}

void Agent::attach(Descriptor port) {
  wait_for(port);
  streams_.push_back({std::move(port)});
}

void Agent::listen(Descriptor listener) {
  wait_for(listener);
  listener_ = std::move(listener);
}

void Agent::handle() {
  epoll_event event{};
  while (epoll_wait(events_.get(), &event, 1, 0) > 0) {
  }
  if (listener_) {
    accept_all();
  }
  streams_.remove_if([this](Stream& stream) { return !serve(stream); });
}

void Agent::accept_all() {
  for (;;) {
    sockaddr_storage peer{};
    socklen_t size = sizeof peer;
    Descriptor stream(accept4(listener_.get(), reinterpret_cast<sockaddr*>(&peer), &size, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!stream) {
      return;
    }
    if (peer.ss_family == AF_VSOCK && reinterpret_cast<const sockaddr_vm&>(peer).svm_cid != VMADDR_CID_HOST) {
      continue;
    }
    if (streams_.size() == kMostStreams) {
      streams_.pop_front();
    }
    wait_for(stream);
    streams_.push_back({std::move(stream), true});
  }
}

bool Agent::serve(Stream& stream) {
  char data[4096];
  ssize_t count = 0;
  // A port nobody listens to reads as ended; what arrives later wakes us again.
  while ((count = read(stream.descriptor.get(), data, sizeof data)) > 0) {
    stream.requests.append(data, static_cast<std::size_t>(count));
    if (stream.requests.size() > kLongestLine) {
      stream.requests.clear();
    }
  }
  const bool at_end = stream.ends && (count == 0 || errno != EAGAIN);
  for (std::size_t end = 0; (end = stream.requests.find('\n')) != std::string::npos;) {
    stream.replies += answer(std::string_view(stream.requests).substr(0, end)) + "\n";
    stream.requests.erase(0, end + 1);
  }
  // A request can be here before the kernel has heard that somebody is at the other end; until then it takes no reply.
  while (!stream.replies.empty() && (count = send_or_write(stream.descriptor, stream.replies)) > 0) {
    stream.replies.erase(0, static_cast<std::size_t>(count));
  }
  if (stream.replies.size() > kLongestLine) {
    stream.replies.clear();  // the host does not read
  }
  return !at_end;
}

std::string Agent::answer(std::string_view line) {
  std::string id = "0";
  try {
    const Json request = Json::parse(line);
    id = text_member(request, "id");
    const std::string operation = text_member(request, "op");
    std::optional<long long> clock_set;
    if (operation == "refresh") {
      const Refresh refresh = parse_refresh(request);
      clock_set = apply_refresh(refresh);
      if (!refresh.host_key.private_key.empty()) {
        set_host_key_(refresh.host_key);
      }
      // The same words as after a boot, once the host can hear them in the right order: after what it asked for was done.
      write_console("\nVMRS_READY " + announced_address() + "\n");
    } else if (operation == "clock") {
      const std::optional<long long> time_ns = parse_time(request);
      if (!time_ns) {
        throw std::runtime_error("time_ns: is missing");
      }
      clock_set = set_clock(*time_ns);
    } else if (operation == "sync") {
      sync();
    } else if (operation != "ping") {
      throw std::runtime_error("unknown operation " + operation);
    }
    const std::string age = clock_set ? ",\"clock_age_ns\":" + quote(std::to_string(monotonic_ns() - *clock_set)) : "";
    return "{\"id\":" + quote(id) + ",\"ok\":true" + age + "}";
  } catch (const std::exception& error) {
    return "{\"id\":" + quote(id) + ",\"ok\":false,\"error\":" + quote(error.what()) + "}";
  }
}

}  // namespace vmtest::guest
