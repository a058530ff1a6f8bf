#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>

namespace vmtest::vz {

/// The wish that the process ends, by whoever has it first.
class ExitRequest {
 public:
  struct Wish {
    int code = 0;
    /// "the guest stopped", for the event "exit".
    std::string why;
  };

  void ask(int code, const std::string& why) {
    const std::lock_guard lock(mutex_);
    if (!wish_) wish_ = Wish{code, why};
    changed_.notify_all();
  }
  [[nodiscard]] Wish wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return wish_.has_value(); });
    return *wish_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Wish> wish_;
};

}  // namespace vmtest::vz
