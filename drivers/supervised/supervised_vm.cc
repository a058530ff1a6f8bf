#include "supervised/supervised_vm.h"

#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <thread>
#include <utility>

#include "platform.h"
#include "vmtest/error.h"
#include "vmtest/host/socket.h"
#include "vmtest/host/text.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;

/// Exec to the first answer takes some ten milliseconds; loading from a cold disk on a crowded host takes longest.
constexpr std::chrono::seconds kLaunchTime{60};
/// Between two tries to connect to a starting hypervisor; its end wakes us at once.
constexpr std::chrono::milliseconds kLaunchPoll{2};
/// A closed connection means that the hypervisor is ending: its exit status follows.
constexpr std::chrono::seconds kExitReportTime{5};
/// A hypervisor that was told to end has nothing left to do but give its memory back.
constexpr std::chrono::seconds kEndTime{20};
/// How soon a waiter finds that a VM continues in another process.
constexpr std::chrono::milliseconds kContinuePoll{5};
/// From the end of a process' connections to its own.
constexpr std::chrono::milliseconds kEndNoticeTime{500};

}  // namespace

bool is_absent(const std::system_error& error) { return error.code().value() == ENOENT || error.code().value() == ECONNREFUSED; }

SupervisedVm::SupervisedVm(VmHandle handle, std::shared_ptr<SupervisorConnection> supervisor, Owner owner, Program program)
    : handle_(std::move(handle)), supervisor_(std::move(supervisor)), owner_(owner), program_(program) {}

VmState SupervisedVm::state() { return state(Deadline::after(kAnswerTime)); }

VmState SupervisedVm::state(const Deadline& deadline) {
  if (continues_) return meanwhile_;
  if (supervisor_->status().processes.count(program_.process) == 0) {
    return ended_state(std::chrono::milliseconds(0), VmState::Prepared);
  }
  std::string why;
  try {
    return running_state(deadline);
  } catch (const std::system_error& error) {
    if (is_absent(error) && !was_started()) return VmState::Starting;
    why = error.what();
  } catch (const Timeout&) {
    throw;
  } catch (const std::exception& error) {
    why = error.what();
  }
  // It ended between our two questions, or it lives and makes no sense.
  const VmState now = ended_state(std::min<std::chrono::milliseconds>(kExitReportTime, deadline.remaining()), VmState::Running);
  if (now != VmState::Running) return now;
  throw StateUnknown(std::string(program_.title) + " runs, but does not tell the state of VM \"" + handle_.name + "\": " + why);
}

VmState SupervisedVm::ended_state(std::chrono::milliseconds timeout, VmState otherwise) {
  const auto exit = wait_exit(timeout);
  if (!exit) return otherwise;
  return exit->orderly ? VmState::Stopped : VmState::Failed;
}

void SupervisedVm::spawn(SupervisedProcess process, const std::vector<Companion>& companions,
                         const std::function<void()>& connect) {
  process.name = program_.process;
  write_file(handle_.work_dir / "command_line.txt", format_command(process.argv) + "\n", 0600);
  forget_asked();
  forget_started();
  {
    const std::lock_guard lock(mutex_);
    start_steps_.clear();
  }
  end_companions(companions);
  pid_t pid = -1;
  try {
    for (const Companion& companion : companions) start_companion(companion);
    pid = supervisor_->spawn(process);
  } catch (...) {
    end_companions(companions);
    throw;
  }
  {
    const std::lock_guard lock(mutex_);
    process_ = std::make_shared<FileDescriptor>(supervisor::try_open_pidfd(pid));
    start_steps_.push_back({"process", std::chrono::steady_clock::now()});
  }
  continues_ = false;
  try {
    connect();
  } catch (const std::exception&) {
    // Most of the time it ended with a complaint about its command line, and that is the story.
    signal(SIGKILL);
    (void)supervisor_->wait_exit(program_.process, kExitReportTime);
    for (const Companion& companion : companions) {
      // Its end came first, so its report did, too.
      const auto ended = supervisor_->wait_exit(companion.name, std::chrono::milliseconds(0));
      if (ended && !ended->told && !ended->status.ok()) {
        throw Error(companion.title + " ended with " + to_string(ended->status) +
                    (ended->last_words.empty() ? "" : ", saying:\n" + indent(sanitize_console(ended->last_words), "  ")));
      }
    }
    give_up(program_.process, "at its start");
  }
  mark_started();
}

void SupervisedVm::start_companion(const Companion& companion) {
  with_context("cannot start " + companion.title, [&] {
    std::error_code ignored;
    fs::remove(companion.socket, ignored);
    SupervisedProcess process;
    process.name = companion.name;
    process.argv = companion.argv;
    process.log_file = companion.name + ".log";
    process.needed_by = program_.process;
    process.restarts = program_.reconnects;
    // The socket listens from now on, so nobody has to wait for it. It goes with the companion: who connects when that has ended,
    // and is not started anew, is refused.
    const FileDescriptor listener = listen_unix(companion.socket);
    supervisor_->hold(kCompanionSocket, listener.get());
    process.descriptors = {{kCompanionSocket, kCompanionSocketDescriptor}};
    if (!companion.folder.empty()) {
      const FileDescriptor folder = open_shared_folder(companion.folder, companion.read_only);
      supervisor_->hold(kCompanionFolder, folder.get());
      process.descriptors.emplace_back(kCompanionFolder, kCompanionFolderDescriptor);
    }
    if (!companion.state_dir.empty()) {
      fs::create_directories(companion.state_dir);
      fs::permissions(companion.state_dir, fs::perms::owner_all);
    }
    write_file(handle_.work_dir / (companion.name + "_command_line.txt"), format_command(companion.argv) + "\n", 0600);
    try {
      (void)supervisor_->spawn(process);
    } catch (...) {
      supervisor_->release(kCompanionSocket);
      supervisor_->release(kCompanionFolder);
      throw;
    }
    supervisor_->release(kCompanionSocket);
    supervisor_->release(kCompanionFolder);
  });
}

void SupervisedVm::end_companions(const std::vector<Companion>& companions) {
  if (companions.empty()) return;
  const auto running = supervisor_->status().processes;
  for (const Companion& companion : companions) {
    if (running.count(companion.name) == 0) continue;
    supervisor_->signal(companion.name, SIGKILL);
    if (!supervisor_->wait_exit(companion.name, kExitReportTime)) throw Timeout(companion.title + " does not end");
  }
}

void SupervisedVm::continue_in_another_process(const std::function<void()>& end, const std::function<void()>& go_on) {
  continues_ = true;
  try {
    end();
    if (!supervisor_->wait_exit(program_.process, kEndTime)) {
      throw Timeout(std::string(program_.title) + " does not end after its state was saved");
    }
    go_on();
  } catch (...) {
    continues_ = false;
    throw;
  }
}

void SupervisedVm::move_to_second_process(SupervisedProcess second, const std::function<void(const AwaitUp& await_up)>& move,
                                          const std::function<void()>& end_first) {
  second.name = std::string(program_.process) + "-next";
  const pid_t pid = supervisor_->spawn(second);
  const auto process = std::make_shared<FileDescriptor>(supervisor::try_open_pidfd(pid));
  // The first one may end by itself as soon as the guest has arrived.
  meanwhile_ = VmState::Running;
  continues_ = true;
  try {
    move([&](const std::function<bool()>& is_up) {
      await(is_up, [&] { return wait_readable(process->get(), Deadline::after(kLaunchPoll)); });
    });
  } catch (const std::exception& error) {
    continues_ = false;
    // One that ends closes its connections a moment before, and its last words are the reason.
    if (dynamic_cast<const Timeout*>(&error) == nullptr) (void)wait_readable(process->get(), Deadline::after(kEndNoticeTime));
    give_up(second.name, "while the guest was on its way to it");
  }
  try {
    end_first();
    if (!supervisor_->wait_exit(program_.process, kEndTime)) {
      signal(SIGKILL);  // two processes with one guest's disks must not be
      (void)supervisor_->wait_exit(program_.process, kEndTime);
    }
    supervisor_->rename(second.name, program_.process);
    {
      const std::lock_guard lock(mutex_);
      process_ = process;
    }
    try {
      write_file(handle_.work_dir / "command_line.txt", format_command(second.argv) + "\n", 0600);
    } catch (const std::exception&) {  // a full disk must not take from a VM that has moved what is left to do
    }
  } catch (...) {
    continues_ = false;
    throw;
  }
  continues_ = false;
}

void SupervisedVm::await_up(const std::function<bool()>& is_up) {
  await(is_up, [&] { return wait_exit(kLaunchPoll).has_value(); });
  const std::lock_guard lock(mutex_);
  // What else is waited for comes after its first answer.
  if (start_steps_.size() == 1) start_steps_.push_back({"monitor", std::chrono::steady_clock::now()});
}

std::vector<Step> SupervisedVm::start_steps() const {
  const std::lock_guard lock(mutex_);
  return start_steps_;
}

void SupervisedVm::await(const std::function<bool()>& is_up, const std::function<bool()>& has_ended) const {
  const Deadline deadline = Deadline::after(kLaunchTime);
  for (;;) {
    try {
      if (is_up()) return;
    } catch (const std::system_error& error) {
      if (!is_absent(error)) throw Error(std::string("cannot connect to ") + program_.title + ": " + error.what());
    }
    if (has_ended()) throw Error(std::string(program_.title) + " ended at its start");
    if (deadline.expired()) {
      throw Timeout(std::string(program_.title) + " was not up within " + std::to_string(kLaunchTime.count()) + " s");
    }
  }
}

void SupervisedVm::give_up(const std::string& process, const std::string& when) {
  supervisor_->signal(process, SIGKILL);
  const auto exit = supervisor_->wait_exit(process, kExitReportTime);
  if (!exit || exit->status.signal == SIGKILL) {
    try {
      throw;
    } catch (const Timeout& timeout) {
      // What it waits for itself it may have said.
      if (!exit || exit->last_words.empty()) throw;
      throw Timeout(std::string(timeout.what()) + ", after it said:\n" + indent(sanitize_console(exit->last_words), "  "));
    }
  }
  throw Error(std::string(program_.title) + " ended " + when + " with " + to_string(exit->status) +
              (exit->last_words.empty() ? "" : ", saying:\n") + indent(sanitize_console(exit->last_words), "  "));
}

std::shared_ptr<FileDescriptor> SupervisedVm::process() {
  std::shared_ptr<FileDescriptor> known;
  {
    const std::lock_guard lock(mutex_);
    known = process_;
  }
  if (!known && owner_ == Owner::Somebody) {
    const auto processes = supervisor_->status().processes;
    const auto running = processes.find(program_.process);
    if (running == processes.end()) return nullptr;
    known = std::make_shared<FileDescriptor>(supervisor::try_open_pidfd(running->second));
    const std::lock_guard lock(mutex_);
    process_ = known;
  }
  return known && known->valid() ? known : nullptr;
}

std::optional<VmExit> SupervisedVm::wait_exit(std::chrono::milliseconds timeout) {
  const Deadline deadline = Deadline::after(timeout);
  auto running = process();
  for (;; running = process()) {
    if (running && !wait_readable(running->get(), deadline)) return std::nullopt;
    if (!continues_ && running == process()) break;
    if (deadline.expired()) return std::nullopt;
    std::this_thread::sleep_for(std::min<std::chrono::milliseconds>(kContinuePoll, deadline.remaining()));
  }
  // Once it has ended, the supervisor's report is on its way.
  const auto exit =
      supervisor_->wait_exit(program_.process, running ? std::max<std::chrono::milliseconds>(timeout, kExitReportTime) : timeout);
  if (!exit) return std::nullopt;
  std::error_code ignored;
  const bool asked = asked_ || fs::exists(asked_file(), ignored);
  if (exit->cause && !asked) {
    return VmExit{exit->cause->name + " ended with " + to_string(exit->cause->status) + ", and the VM, which needs it, was ended",
                  exit->cause->last_words, false};
  }
  VmExit judged = judge(*exit, asked);
  judged.signal = exit->status.signal;
  const int ended_by = ended_by_;
  if (ended_by == 0 && exit->status.ok()) judged.how = "the guest powered off as asked";
  if (ended_by > 0) {
    judged.forced = true;
    judged.how += std::string(", by ") + (ended_by == SIGTERM ? "SIGTERM" : "SIGKILL");
  }
  return judged;
}

bool SupervisedVm::was_started() const {
  std::error_code ignored;
  return fs::exists(started_file(), ignored);
}

void SupervisedVm::mark_started() noexcept {
  try {
    write_file(started_file(), "", 0600);
  } catch (const std::exception&) {  // a full disk must not take from a VM that runs
  }
}

void SupervisedVm::forget_started() {
  std::error_code ignored;
  fs::remove(started_file(), ignored);
}

void SupervisedVm::mark_asked() noexcept {
  asked_ = true;
  try {
    write_file(asked_file(), "", 0600);
  } catch (const std::exception&) {  // a full disk must not keep a VM from being stopped
  }
}

void SupervisedVm::forget_asked() {
  asked_ = false;
  ended_by_ = kNobody;
  std::error_code ignored;
  fs::remove(asked_file(), ignored);
}

}  // namespace vmtest
