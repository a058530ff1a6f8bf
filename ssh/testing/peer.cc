#include "testing/peer.h"

#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "ssh_servers.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/socket.h"

namespace vmtest::ssh {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

const passwd& server_account() {
  const passwd* account = ::geteuid() == 0 ? ::getpwnam("nobody") : ::getpwuid(::geteuid());
  if (account == nullptr) throw std::runtime_error("no account for the test's SSH server");
  return *account;
}

/// The server's processes and the commands they run, which have sessions and groups of their own: those that have the home
/// folder in their environment, or (sshd writes over its own) are programs of the folder. Returns how many still lived.
int kill_processes_of(const fs::path& folder) {
  int found = 0;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file(entry.path() / "environ");
    const std::string environment(std::istreambuf_iterator<char>(file), {});
    std::error_code gone;
    const std::string program = fs::read_symlink(entry.path() / "exe", gone);
    const bool ours = program.starts_with(folder.string()) || environment.find("HOME=" + folder.string()) != std::string::npos;
    const pid_t pid = std::stoi(name);
    if (ours && pid != ::getpid() && ::kill(pid, SIGKILL) == 0) ++found;
  }
  return found;
}

}  // namespace

std::string to_string(PeerKind kind) { return kind == PeerKind::OpenSsh ? "OpenSsh" : "Dropbear"; }

std::string Peer::missing(PeerKind kind) {
  const std::string program = kind == PeerKind::Dropbear ? "dropbear" : "sshd";
  if (find_ssh_program(program)) return "";
  return "no " + program + " here (tests/support/fetch_ssh_servers FOLDER, then VMTEST_TEST_SSH_SERVERS=FOLDER)";
}

Peer::Peer(PeerKind kind, const PeerOptions& options) : port_(ephemeral_port()) {
  const fs::path home = guest_folder();
  user_ = server_account().pw_name;
  fs::create_directories(home / ".ssh");
  write_file(home / ".ssh/authorized_keys", client_key_.public_key + "\n", 0600);
  write_file(folder_.path() / "host_key", host_key_.private_key, 0600);
  fs::copy(VMTEST_HOME_PRELOAD, folder_.path() / "home_preload.so");
  // Copied, as are the programs, since "nobody" may not be able to read the folder of a build.
  fs::create_directory(folder_.path() / "lib");
  for (const fs::path& library : ssh_server_libraries()) fs::copy(library, folder_.path() / "lib");

  process_options_.argv = kind == PeerKind::OpenSsh ? openssh_command(options) : dropbear_command();
  process_options_.environment = {{"LD_PRELOAD", (folder_.path() / "home_preload.so").string()},
                                  {"LD_LIBRARY_PATH", (folder_.path() / "lib").string()},
                                  {"VMTEST_PEER_HOME", home.string()},
                                  {"VMTEST_PEER_SHELL", options.login_shell}};
  if (::geteuid() == 0) {
    const passwd& account = server_account();
    const std::string uid = std::to_string(account.pw_uid);
    const std::string gid = std::to_string(account.pw_gid);
    (void)run_tool({"chown", "-R", uid + ":" + gid, folder_.path().string()}, Deadline::after(10s));
    // The change of user clears the parent-death signal, so it is set again.
    const std::vector<std::string> drop = {"setpriv",        "--reuid=" + uid,   "--regid=" + gid,
                                           "--clear-groups", "--pdeathsig=KILL", "--"};
    process_options_.argv.insert(process_options_.argv.begin(), drop.begin(), drop.end());
  }
  start();
}

Peer::~Peer() { crash(); }

std::vector<std::string> Peer::openssh_command(const PeerOptions& options) {
  const fs::path sshd = find_ssh_program("sshd").value();
  fs::copy(sshd, folder_.path() / "sshd");
  fs::copy(options.sftp_program.empty() ? sshd.parent_path().parent_path() / "lib/openssh/sftp-server" : options.sftp_program,
           folder_.path() / "sftp-server");
  const std::string config = folder_.path() / "sshd_config";
  std::ofstream lines(config);
  lines << "Port " << port_ << "\nListenAddress 127.0.0.1\nHostKey " << (folder_.path() / "host_key").string()
        << "\nPidFile none\n"
        << "AuthorizedKeysFile " << (guest_folder() / ".ssh/authorized_keys").string()
        << "\nStrictModes no\nPasswordAuthentication no\n"
        << "KbdInteractiveAuthentication no\n";
  if (options.has_sftp)
    lines << "Subsystem sftp " << (folder_.path() / "sftp-server").string() << " " << options.sftp_arguments << "\n";
  for (const std::string& line : options.sshd_config) lines << line << "\n";
  return {(folder_.path() / "sshd").string(), "-D", "-e", "-f", config};
}

std::vector<std::string> Peer::dropbear_command() {
  const std::string key = folder_.path() / "dropbear_key";
  const fs::path program = folder_.path() / "dropbear";
  fs::copy(find_ssh_program("dropbear").value(), program);
  (void)run_tool(
      {find_ssh_program("dropbearconvert").value().string(), "openssh", "dropbear", (folder_.path() / "host_key").string(), key},
      Deadline::after(10s), {{"LD_LIBRARY_PATH", (folder_.path() / "lib").string()}});
  return {program.string(),
          "-F",
          "-E",
          "-s",
          "-r",
          key,
          "-p",
          "127.0.0.1:" + std::to_string(port_),
          "-P",
          (folder_.path() / "pid").string()};
}

void Peer::start() {
  const FileDescriptor log = open_file(folder_.path() / "server.log", O_WRONLY | O_CREAT | O_APPEND, 0644);
  process_options_.standard_output = log.get();
  process_options_.standard_error = log.get();
  server_ = ChildProcess::start(process_options_);
}

void Peer::restart_with(const std::vector<std::string>& sshd_config) {
  crash();
  std::ofstream lines(folder_.path() / "sshd_config", std::ios::app);
  for (const std::string& line : sshd_config) lines << line << "\n";
  lines.close();
  start();
}

void Peer::crash() {
  server_.kill_group();
  // A killed process may still answer a little while.
  const Deadline deadline = Deadline::after(10s);
  while (kill_processes_of(folder_.path()) > 0 && !deadline.expired()) (void)wait_readable(-1, Deadline::after(1ms));
}

void Peer::write_guest_file(const std::string& name, std::string_view content, unsigned mode) const {
  const fs::path path = guest_folder() / name;
  write_file(path, content, mode);
  const passwd& account = server_account();
  if (::chown(path.c_str(), account.pw_uid, account.pw_gid) != 0) throw_errno("chown");
}

std::string Peer::server_log() const { return read_file_tail(folder_.path() / "server.log", 64 * 1024); }

SshOptions Peer::session_options() const {
  SshOptions options;
  options.port = port_;
  options.user = user_;
  options.private_key = client_key_.private_key;
  options.host_key = host_key_.public_key;
  options.connect_timeout = 20s;
  return options;
}

}  // namespace vmtest::ssh
