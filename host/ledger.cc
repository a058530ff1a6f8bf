#include "vmtest/host/ledger.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "ledger_platform.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/socket.h"

namespace vmtest {
namespace {

// Where each kind of lock lies in the file. Locks do not need bytes to exist, so only VM records take space.
constexpr off_t kMutexAt = 0;
constexpr off_t kTicketCounterAt = 8;  // a 64-bit number, not a lock
constexpr off_t kRecordsAt = 4096;     // content of the VM records
constexpr off_t kRecordSize = 128;
constexpr off_t kPortsAt = 1LL << 32;
constexpr off_t kVmsAt = 3LL << 32;
constexpr off_t kTicketsAt = 4LL << 32;
constexpr off_t kNextAt = 5LL << 32;  // once more the tickets, of those whose turn is next
constexpr off_t kMostTickets = 1LL << 32;
constexpr off_t kMostVms = 4096;
/// How long a waiting test sleeps between two looks; the wait ends with another VM's end, which takes longer than this.
constexpr std::chrono::milliseconds kAdmissionPoll{10};

/// What stands in a VM's record.
struct Record {
  std::uint32_t memory_mib = 0;
  std::uint32_t vcpus = 0;
  char name[kRecordSize - 16] = {};
  /// Milliseconds of the monotonic clock.
  std::int64_t admitted_at = 0;
};
static_assert(sizeof(Record) == kRecordSize);

std::int64_t now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// What a VM is expected to take yet: less and less, since it takes its memory as it boots, and of most the host has seen a part.
unsigned long yet_to_take(const Record& record, std::chrono::milliseconds settle_time) {
  const std::int64_t left = record.admitted_at + settle_time.count() - now_ms();
  if (left <= 0 || left > settle_time.count()) return 0;
  return static_cast<unsigned long>(record.memory_mib * static_cast<double>(left) / static_cast<double>(settle_time.count()));
}

/// The ledger's own lock. Whoever holds it does so for some microseconds, unless it was stopped just then.
class Mutex {
 public:
  Mutex(int fd, const std::filesystem::path& file) : fd_(fd) {
    constexpr std::chrono::seconds kMutexTime{10};
    constexpr std::chrono::microseconds kMutexPoll{200};
    const Deadline deadline = Deadline::after(kMutexTime);
    while (!try_lock_byte(fd_, kMutexAt)) {
      if (deadline.expired())
        throw Error("another process has locked the ledger for 10 s, as one that was stopped does: `fuser -v " + file.string() +
                    "` (package psmisc) names who uses it; continue or end the one that is stopped");
      std::this_thread::sleep_for(kMutexPoll);
    }
  }
  ~Mutex() { unlock_byte(fd_, kMutexAt); }
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

 private:
  int fd_;
};

Record read_record(int fd, off_t slot) {
  Record record;
  if (::pread(fd, &record, sizeof record, kRecordsAt + slot * kRecordSize) != sizeof record) return {};
  record.name[sizeof record.name - 1] = '\0';
  return record;
}

/// Slots whose lock somebody holds.
std::vector<off_t> living_slots(int fd) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) throw_errno("cannot look at the ledger");
  std::vector<off_t> living;
  const off_t written = std::max<off_t>(0, (info.st_size - kRecordsAt + kRecordSize - 1) / kRecordSize);
  for (off_t slot = 0; slot < std::min(written, kMostVms); ++slot) {
    if (byte_is_locked(fd, kVmsAt + slot)) living.push_back(slot);
  }
  return living;
}

/// Finds a slot nobody holds and holds it by `fd`.
void take_slot(int fd, const VmResources& vm) {
  Record record;
  record.memory_mib = vm.memory_mib;
  record.vcpus = vm.vcpus;
  record.admitted_at = now_ms();
  vm.name.copy(record.name, sizeof record.name - 1);
  for (off_t slot = 0; slot < kMostVms; ++slot) {
    if (!try_lock_byte(fd, kVmsAt + slot)) continue;
    if (::pwrite(fd, &record, sizeof record, kRecordsAt + slot * kRecordSize) != sizeof record) {
      throw_errno("cannot write the ledger");
    }
    return;
  }
  throw Unsupported("the ledger has no room for another VM: " + std::to_string(kMostVms) + " are running");
}

std::uint64_t next_ticket(int fd) {
  std::uint64_t ticket = 0;
  if (::pread(fd, &ticket, sizeof ticket, kTicketCounterAt) < 0) throw_errno("cannot read the ledger");
  const std::uint64_t next = ticket + 1;
  if (::pwrite(fd, &next, sizeof next, kTicketCounterAt) != sizeof next) throw_errno("cannot write the ledger");
  return ticket & 0xffffffffU;
}

unsigned from_environment(const char* name, unsigned otherwise) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return otherwise;
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), value);
  if (error != std::errc() || *end != '\0' || value == 0) {
    throw Error(std::string(name) + "=" + text + " is no positive number");
  }
  return value;
}

/// All locked ports of a range. The kernel names any lock of a range, not the first, so both sides of it are asked for.
void collect_locked(int fd, off_t at, off_t size, std::vector<std::uint16_t>& found) {
  if (size <= 0) return;
  const auto hit = any_lock(fd, at, size);
  if (!hit) return;
  found.push_back(static_cast<std::uint16_t>(*hit - kPortsAt));
  collect_locked(fd, at, *hit - at, found);
  collect_locked(fd, *hit + 1, at + size - *hit - 1, found);
}

std::string list_holders(const std::vector<VmResources>& holders) {
  std::string text;
  for (const VmResources& vm : holders) {
    text += "\n  " + vm.name + ": " + std::to_string(vm.memory_mib) + " MiB, " + std::to_string(vm.vcpus) + " vCPUs";
  }
  return text.empty() ? "\n  nobody" : text;
}

}  // namespace

Ledger::Limits Ledger::default_limits() {
  const long pages = ::sysconf(_SC_PHYS_PAGES);
  const long page_size = ::sysconf(_SC_PAGESIZE);
  const long cpus = std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN));
  const auto memory_mib = static_cast<unsigned>(static_cast<double>(pages) * static_cast<double>(page_size) * 0.9 / (1 << 20));
  Limits limits;
  limits.memory_mib = from_environment("VMTEST_MAX_MEMORY_MIB", memory_mib);
  limits.vcpus = from_environment("VMTEST_MAX_VCPUS", static_cast<unsigned>(cpus * 4));
  return limits;
}

Ledger::Ledger() : Ledger(ledger_dir() / "ledger", default_limits()) {}

Ledger::Ledger(std::filesystem::path file, Limits limits) : file_(std::move(file)), limits_(limits) {}

FileDescriptor Ledger::open() const {
  // Each lease needs an open file of its own, since its locks end with it. A cleaner of /tmp may have removed the file
  // between our open and our lock: what counts is the file that has the name now.
  for (;;) {
    FileDescriptor fd = open_file(file_, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
    struct stat ours {};
    struct stat named {};
    if (::fstat(fd.get(), &ours) != 0) throw_errno("cannot look at " + file_.string());
    if (::lstat(file_.c_str(), &named) == 0 && ours.st_ino == named.st_ino && ours.st_dev == named.st_dev) return fd;
  }
}

std::vector<Lease> Ledger::admit(const std::vector<VmResources>& vms, const Deadline& deadline, Turn turn,
                                 const std::function<bool()>& is_needless) {
  unsigned long memory = 0;
  unsigned long vcpus = 0;
  for (const VmResources& vm : vms) {
    memory += vm.memory_mib;
    vcpus += vm.vcpus;
  }
  if (memory > limits_.memory_mib || vcpus > limits_.vcpus) {
    throw Unsupported("this host cannot run it: " + std::to_string(memory) + " MiB and " + std::to_string(vcpus) +
                      " vCPUs are asked for, " + std::to_string(limits_.memory_mib) + " MiB and " +
                      std::to_string(limits_.vcpus) + " vCPUs may be taken (VMTEST_MAX_MEMORY_MIB, VMTEST_MAX_VCPUS)");
  }
  const FileDescriptor queue = open();
  std::uint64_t ticket = 0;
  {
    const Mutex mutex(queue.get(), file_);
    ticket = next_ticket(queue.get());
    if (!try_lock_byte(queue.get(), kTicketsAt + static_cast<off_t>(ticket)))
      throw Error("the ledger's queue is broken: " + file_.string());
  }
  for (;;) {
    {
      const Mutex mutex(queue.get(), file_);
      const bool is_oldest = ticket == 0 || !range_is_locked(queue.get(), kTicketsAt, static_cast<off_t>(ticket));
      const bool first = turn == Turn::Next || (is_oldest && !range_is_locked(queue.get(), kNextAt, kMostTickets));
      unsigned long memory_taken = 0;
      unsigned long vcpus_taken = 0;
      unsigned long memory_to_come = 0;
      for (const off_t slot : living_slots(queue.get())) {
        const Record record = read_record(queue.get(), slot);
        memory_taken += record.memory_mib;
        vcpus_taken += record.vcpus;
        memory_to_come += yet_to_take(record, limits_.settle_time);
      }
      // What others than our VMs take counts too, but must not keep the only one waiting for ever.
      const bool fits_now = memory_taken == 0 || memory + memory_to_come <= available_memory_mib();
      if (first && fits_now && memory_taken + memory <= limits_.memory_mib && vcpus_taken + vcpus <= limits_.vcpus) {
        std::vector<Lease> leases;
        for (const VmResources& vm : vms) {
          FileDescriptor fd = open();
          take_slot(fd.get(), vm);
          leases.emplace_back(std::move(fd));
        }
        return leases;
      }
      // Only now that it has to wait: whoever is admitted at once asks nobody to make way.
      if (turn == Turn::Next && !try_lock_byte(queue.get(), kNextAt + static_cast<off_t>(ticket)))
        throw Error("the ledger's queue is broken: " + file_.string());
    }
    if (is_needless && is_needless()) return {};
    if (deadline.expired()) {
      throw Timeout("waited in vain for " + std::to_string(memory) + " MiB and " + std::to_string(vcpus) +
                    " vCPUs (the host has " + std::to_string(available_memory_mib()) +
                    " MiB to spare); they are held by:" + list_holders(admitted()));
    }
    std::this_thread::sleep_for(std::min(kAdmissionPoll, deadline.remaining()));
  }
}

std::optional<Lease> Ledger::try_port(std::uint16_t port) {
  FileDescriptor fd = open();
  if (!try_lock_byte(fd.get(), kPortsAt + port) || !port_is_free(port)) return std::nullopt;
  return Lease(std::move(fd));
}

bool Ledger::somebody_waits() const { return range_is_locked(open().get(), kTicketsAt, kMostTickets); }

bool Ledger::somebody_is_next() const { return range_is_locked(open().get(), kNextAt, kMostTickets); }

std::vector<VmResources> Ledger::admitted() const {
  const FileDescriptor fd = open();
  std::vector<VmResources> result;
  for (const off_t slot : living_slots(fd.get())) {
    const Record record = read_record(fd.get(), slot);
    result.push_back({record.name, record.memory_mib, record.vcpus});
  }
  return result;
}

std::vector<std::uint16_t> Ledger::ports() const {
  const FileDescriptor fd = open();
  std::vector<std::uint16_t> result;
  collect_locked(fd.get(), kPortsAt, 65536, result);
  std::sort(result.begin(), result.end());
  return result;
}

}  // namespace vmtest
