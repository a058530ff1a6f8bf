#include "qemu_process.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "vmtest/error.h"
#include "vmtest/host/socket.h"

namespace vmtest::vz::standin {
namespace {

using nlohmann::json;
using std::chrono::seconds;

/// QEMU answers in milliseconds; a busy host takes its time.
constexpr seconds kAnswer{60};
constexpr seconds kMigration{600};
constexpr std::chrono::hours kLongest{24 * 365};

/// A member of an event's data, which not every event has.
std::string text(const QmpEvent& event, const char* name) {
  return event.data.is_object() ? event.data.value(name, "") : std::string();
}

}  // namespace

QemuProcess::QemuProcess(Options options) : options_(std::move(options)), bridge_stop_(make_pipe()) {
  const ProcessOptions start{
      .argv = options_.arguments, .standard_error = STDERR_FILENO, .pass_descriptors = options_.descriptors};
  process_ = ChildProcess::start(start);
  options_.ends.clear();
  monitor_ = std::make_unique<QmpClient>(std::move(options_.monitor), Deadline::after(kAnswer));
  for (const auto& [name, arguments] : options_.commands) command(name, arguments);
  watcher_ = std::thread([this] { watch(); });
}

QemuProcess::~QemuProcess() {
  // Its end is no news any more; the monitor's connection breaks, which ends the watcher.
  process_.kill_group();
  watcher_.join();
  bridge_stop_.write_end.reset();
  if (bridge_.joinable()) bridge_.join();
}

json QemuProcess::command(const std::string& name, const json& arguments) {
  return monitor_->execute(name, arguments, Deadline::after(kAnswer));
}

void QemuProcess::watch() {
  std::string failure = "QEMU ended";
  try {
    const auto event = monitor_->wait_event("SHUTDOWN", Deadline::after(kLongest));
    if (event && event->data.is_object() && event->data.value("guest", false)) failure.clear();
  } catch (const std::exception& error) {
    failure = error.what();
  }
  options_.on_end(failure);
}

void QemuProcess::await_migration(const char* what) {
  const Deadline deadline = Deadline::after(kMigration);
  const auto ended = [](const QmpEvent& event) {
    return event.name == "MIGRATION" && (text(event, "status") == "completed" || text(event, "status") == "failed");
  };
  const auto event = monitor_->wait_event(ended, deadline);
  if (!event) throw Timeout(std::string(what) + " took too long");
  if (text(*event, "status") == "failed") throw Error(std::string(what) + " failed");
}

void QemuProcess::save(const std::string& path) {
  // An older file stays as it is until the new one is whole.
  const std::string partial = path + ".part";
  const FileDescriptor file = open_file(partial, O_WRONLY | O_CREAT | O_TRUNC);
  command("migrate-set-capabilities", {{"capabilities", json::array({{{"capability", "events"}, {"state", true}}})}});
  monitor_->pass_descriptor("state", file.get(), Deadline::after(kAnswer));
  command("migrate", {{"uri", "fd:state"}});
  try {
    await_migration("saving");
    // The event comes before QEMU is ready to go on.
    const Deadline deadline = Deadline::after(kAnswer);
    while (command("query-status").value("status", "") == "finish-migrate") {
      if (deadline.expired()) throw Timeout("QEMU does not finish saving");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  } catch (const std::exception&) {
    ::unlink(partial.c_str());
    throw;
  }
  if (::rename(partial.c_str(), path.c_str()) != 0) throw_errno("cannot write " + path);
}

void QemuProcess::restore(const std::string& path) {
  const FileDescriptor file = open_file(path, O_RDONLY);
  command("migrate-set-capabilities", {{"capabilities", json::array({{{"capability", "events"}, {"state", true}}})}});
  monitor_->pass_descriptor("state", file.get(), Deadline::after(kAnswer));
  command("migrate-incoming", {{"uri", "fd:state"}});
  await_migration("restoring");
}

void QemuProcess::attach_usb(const std::string& id, const json& block_node) {
  command("blockdev-add", block_node);
  try {
    command("device_add", {{"driver", "usb-storage"}, {"bus", "usb.0"}, {"id", id}, {"drive", id}});
  } catch (const std::exception&) {
    command("blockdev-del", {{"node-name", id}});
    throw;
  }
}

void QemuProcess::detach_usb(const std::string& id) {
  command("device_del", {{"id", id}});
  const auto gone = [&](const QmpEvent& event) { return event.name == "DEVICE_DELETED" && text(event, "device") == id; };
  if (!monitor_->wait_event(gone, Deadline::after(kAnswer))) throw Timeout("the guest keeps the disk " + id);
  command("blockdev-del", {{"node-name", id}});
}

FileDescriptor QemuProcess::connect_agent() {
  const std::lock_guard lock(bridge_mutex_);
  if (!options_.agent.valid()) throw Error("nobody listens on that port");
  if (bridge_busy_) throw Error("the port has a connection already");
  if (bridge_.joinable()) bridge_.join();
  auto [theirs, ours] = make_socket_pair();
  bridge_busy_ = true;
  bridge_ = std::thread([this, stream = std::make_shared<FileDescriptor>(std::move(ours))] { bridge(std::move(*stream)); });
  return std::move(theirs);
}

void QemuProcess::bridge(FileDescriptor stream) {
  // The port goes on when the connection ends, as a vsock port that is listened on does.
  char buffer[16384];
  bool open = true;
  while (open) {
    pollfd entries[] = {{bridge_stop_.read_end.get(), POLLIN, 0}, {stream.get(), POLLIN, 0}, {options_.agent.get(), POLLIN, 0}};
    if (::poll(entries, 3, -1) < 0 && errno == EINTR) continue;
    if (entries[0].revents != 0) break;
    for (const auto& [entry, to] : {std::pair{entries[1], options_.agent.get()}, std::pair{entries[2], stream.get()}}) {
      if (entry.revents == 0) continue;
      const ssize_t count = ::read(entry.fd, buffer, sizeof buffer);
      open = open && count > 0;
      if (count <= 0) continue;
      try {
        write_all(to, {buffer, static_cast<std::size_t>(count)});
      } catch (const std::exception&) {
        open = false;
      }
    }
  }
  const std::lock_guard lock(bridge_mutex_);
  bridge_busy_ = false;
}

}  // namespace vmtest::vz::standin
