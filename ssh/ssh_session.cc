#include "vmtest/ssh_session.h"

#include <utility>

#include "copy.h"
#include "io_thread.h"
#include "libssh_handles.h"
#include "port_forward.h"
#include "process.h"
#include "session_log.h"
#include "vmtest/error.h"

namespace vmtest {
namespace {

SshOptions checked(SshOptions options) {
  with_context("SshOptions::private_key", [&] { (void)ssh::import_private_key(options.private_key); });
  with_context("SshOptions::host_key", [&] { (void)ssh::import_public_key(options.host_key); });
  return options;
}

/// Does a copy by SFTP, or by commands when the server has no SFTP, and logs it.
template <typename BySftp, typename ByCommand>
void copy(const std::shared_ptr<ssh::IoThread>& io, ssh::SessionLog& log, std::chrono::milliseconds idle, const std::string& what,
          BySftp by_sftp, ByCommand by_command) {
  const auto started = std::chrono::steady_clock::now();
  ssh::CopyCount count;
  try {
    if (io->on_io_thread()) throw Error("a guest cannot be used from an output callback");
    const auto sftp = ssh::SftpClient::open(io, idle);
    if (sftp) {
      by_sftp(*sftp, count);
    } else {
      ssh::CommandCopy commands(io, idle);
      by_command(commands, count);
    }
    log.line(what + (sftp ? " by SFTP: " : " by commands: ") + std::to_string(count.files) + " files, " +
                 std::to_string(count.bytes) + " bytes",
             started);
  } catch (const std::exception& error) {
    log.line(what + ": " + error.what(), started);
    rethrow_with_context("cannot " + what);
  }
}

}  // namespace

SshSession::SshSession(SshOptions options)
    : options_(checked(std::move(options))),
      log_(std::make_shared<ssh::SessionLog>(options_.log_file)),
      io_(std::make_shared<ssh::IoThread>(options_, log_)) {}

SshSession::~SshSession() { io_->shut_down(); }

void SshSession::connect() { io_->connect(); }

std::vector<Step> SshSession::connect_steps() const { return io_->connect_steps(); }

void SshSession::reset() { io_->reset(); }

bool SshSession::connected() const { return io_->connected(); }

CommandResult SshSession::exec(const GuestCommand& command) {
  ssh::RemoteProcess process(io_, log_, command);
  return process.run(command);
}

std::unique_ptr<GuestProcess> SshSession::spawn(const GuestCommand& command) {
  auto process = std::make_unique<ssh::RemoteProcess>(io_, log_, command);
  process->wait_started(command.timeout);
  return process;
}

void SshSession::push(const std::filesystem::path& host_path, const std::string& guest_path) {
  copy(
      io_, *log_, options_.transfer_timeout, "push " + host_path.string() + " to the guest's " + guest_path,
      [&](ssh::SftpClient& sftp, ssh::CopyCount& count) { ssh::push_by_sftp(sftp, host_path, guest_path, count); },
      [&](ssh::CommandCopy& commands, ssh::CopyCount& count) { commands.push(host_path, guest_path, count); });
}

void SshSession::pull(const std::string& guest_path, const std::filesystem::path& host_path) {
  copy(
      io_, *log_, options_.transfer_timeout, "pull the guest's " + guest_path + " to " + host_path.string(),
      [&](ssh::SftpClient& sftp, ssh::CopyCount& count) {
        ssh::HostTree tree(host_path);
        ssh::pull_by_sftp(sftp, guest_path, tree, count);
        tree.commit();
      },
      [&](ssh::CommandCopy& commands, ssh::CopyCount& count) {
        ssh::HostTree tree(host_path);
        commands.pull(guest_path, tree, count);
        tree.commit();
      });
}

std::unique_ptr<PortForward> SshSession::forward(std::uint16_t guest_port, const std::string& guest_host) {
  return std::make_unique<ssh::SshPortForward>(io_, log_, guest_host, guest_port);
}

}  // namespace vmtest
