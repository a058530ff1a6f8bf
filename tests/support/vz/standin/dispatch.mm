// Serial queues of Grand Central Dispatch: a thread each, which lives as long as the process.

#include <Block.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "standin.h"

struct dispatch_queue_s {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<dispatch_block_t> blocks;
};

namespace {

thread_local dispatch_queue_t current = nullptr;

void serve(dispatch_queue_t queue) {
  current = queue;
  for (;;) {
    dispatch_block_t block = nullptr;
    {
      std::unique_lock lock(queue->mutex);
      queue->changed.wait(lock, [&] { return !queue->blocks.empty(); });
      block = queue->blocks.front();
      queue->blocks.pop_front();
    }
    @autoreleasepool {
      block();
    }
    Block_release(block);
  }
}

}  // namespace

bool vmtest::vz::standin::on_queue(dispatch_queue_t queue) { return current == queue; }

extern "C" {

dispatch_queue_t dispatch_queue_create(const char* /*label*/, dispatch_queue_attr_t /*attributes*/) {
  auto* const queue = new dispatch_queue_s;
  std::thread(serve, queue).detach();
  return queue;
}

void dispatch_async(dispatch_queue_t queue, dispatch_block_t block) {
  const std::lock_guard lock(queue->mutex);
  queue->blocks.push_back(Block_copy(block));
  queue->changed.notify_all();
}

void dispatch_sync(dispatch_queue_t queue, dispatch_block_t block) {
  if (vmtest::vz::standin::on_queue(queue)) vmtest::vz::standin::misuse("a queue waits for itself");
  struct Waiting {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
  } waiting;
  Waiting* const borrowed = &waiting;
  dispatch_async(queue, ^{
    block();
    const std::lock_guard lock(borrowed->mutex);
    borrowed->done = true;
    borrowed->changed.notify_all();
  });
  std::unique_lock lock(waiting.mutex);
  waiting.changed.wait(lock, [&] { return waiting.done; });
}

}  // extern "C"
