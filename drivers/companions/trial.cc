// Companions without a hypervisor: whether they start and answer.

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <string_view>

#include "companions/companions.h"
#include "vmtest/deadline.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/process.h"
#include "vmtest/host/socket.h"
#include "vmtest/host/text.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using std::string_view_literals::operator""sv;  // NOLINT(misc-unused-using-decls): it is used

/// Milliseconds, but on a busy host.
constexpr std::chrono::seconds kAnswerTime{20};
/// VHOST_USER_GET_FEATURES of version 1 without content, as the hypervisor's first message; all hosts that have it are
/// little-endian. Source: https://www.qemu.org/docs/master/interop/vhost-user.html
constexpr auto kGetFeatures = "\1\0\0\0\1\0\0\0\0\0\0\0"sv;
constexpr std::size_t kFeaturesSize = 20;
/// CMD_GET_CAPABILITY of swtpm's control channel: a number of four bytes, big-endian; status and set come back.
constexpr auto kGetCapability = "\0\0\0\1"sv;
constexpr std::size_t kCapabilitySize = 8;

/// Starts the command with its socket, says `question` and waits for so many bytes.
void try_companion(const std::string& title, const std::vector<std::string>& argv, const fs::path& folder, int shared,
                   std::string_view question, std::size_t answer_size) {
  const FileDescriptor log = open_file(folder / "log", O_WRONLY | O_CREAT);
  FileDescriptor listener = listen_unix(folder / "socket");
  ProcessOptions options;
  options.argv = argv;
  options.standard_output = log.get();
  options.standard_error = log.get();
  options.pass_descriptors = {{listener.get(), kCompanionSocketDescriptor}};
  if (shared >= 0) options.pass_descriptors.emplace_back(shared, kCompanionFolderDescriptor);
  ChildProcess process = ChildProcess::start(options);
  listener.reset();
  const Deadline deadline = Deadline::after(kAnswerTime);
  std::string answer;
  std::string why = "it does not answer";
  try {
    const FileDescriptor socket = connect_unix(folder / "socket");
    send_message(socket.get(), question);
    std::vector<FileDescriptor> none;
    while (answer.size() < answer_size && wait_readable(socket.get(), deadline) && receive_some(socket.get(), answer, none)) {
    }
  } catch (const std::system_error& error) {  // it closed the connection
    why = error.what();
  }
  if (answer.size() >= answer_size) return;
  if (const auto ended = process.wait(Deadline::after(std::chrono::seconds(1)))) why = "it ended with " + to_string(*ended);
  const std::string words = last_lines(sanitize_console(read_file_tail(folder / "log", 4096)), 5);
  throw Error(title + " does not work: " + why + (words.empty() ? "" : ", saying:\n" + indent(words, "  ")));
}

}  // namespace

std::string try_virtiofsd() {
  const Virtiofsd virtiofsd = find_virtiofsd();
  const TemporaryDirectory folder;
  const fs::path shared = folder.path() / "shared";
  fs::create_directory(shared);
  const bool by_view = virtiofsd.kind == Virtiofsd::Kind::Qemu;
  const FileDescriptor view = by_view ? open_shared_folder(shared, true) : FileDescriptor();
  try_companion(virtiofsd.program.string(), virtiofsd_command(virtiofsd, {shared, "doctor", true}, ::geteuid() == 0),
                folder.path(), view.get(), kGetFeatures, kFeaturesSize);
  return virtiofsd.program.string() + " served a folder";
}

std::string try_swtpm() {
  const fs::path program = find_swtpm();
  const TemporaryDirectory folder;
  const fs::path state = folder.path() / "state";
  fs::create_directory(state);
  try_companion(program.string(), swtpm_command(program, state), folder.path(), -1, kGetCapability, kCapabilitySize);
  return program.string() + " answered";
}

}  // namespace vmtest
