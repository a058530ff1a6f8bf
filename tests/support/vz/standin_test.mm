// The stand-in is as strict as the framework: what ends a process there, or is refused there, must not pass here.

#import <Virtualization/Virtualization.h>

#include <gtest/gtest.h>

#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <mutex>
#include <optional>

#include "standin.h"

namespace vmtest::vz::standin {
namespace {

class StandinTest : public ::testing::Test {
 protected:
  StandinTest() {
    char name[] = "/tmp/vz-standin-XXXXXX";
    folder_ = ::mkdtemp(name);
    std::ofstream(folder_ / "kernel") << "no kernel";
    queue_ = dispatch_queue_create("test", DISPATCH_QUEUE_SERIAL);
  }
  ~StandinTest() override { std::filesystem::remove_all(folder_); }

  VZVirtualMachineConfiguration* make_configuration() {
    NSURL* const kernel = [NSURL fileURLWithPath:to_ns((folder_ / "kernel").string())];
    VZVirtualMachineConfiguration* const configuration = [[[VZVirtualMachineConfiguration alloc] init] autorelease];
    [configuration setBootLoader:[[[VZLinuxBootLoader alloc] initWithKernelURL:kernel] autorelease]];
    [configuration setCPUCount:1];
    [configuration setMemorySize:64U << 20];
    return configuration;
  }
  VZVirtualMachine* make_machine() {
    return [[[VZVirtualMachine alloc] initWithConfiguration:make_configuration() queue:queue_] autorelease];
  }
  void on_its_queue(const std::function<void()>& work) {
    const auto* const borrowed = &work;
    dispatch_sync(queue_, ^{
      (*borrowed)();
    });
  }
  /// The code of the error that a completion handler gets; 0 for none.
  NSInteger code_of(const std::function<void(void (^)(NSError*))>& start) {
    struct Result {
      std::mutex mutex;
      std::condition_variable changed;
      std::optional<NSInteger> code;
    };
    const auto result = std::make_shared<Result>();
    on_its_queue([&] {
      start(^(NSError* error) {
        const std::lock_guard lock(result->mutex);
        result->code = error == nil ? 0 : [error code];
        result->changed.notify_all();
      });
    });
    std::unique_lock lock(result->mutex);
    result->changed.wait_for(lock, std::chrono::seconds(60), [&] { return result->code.has_value(); });
    return result->code.value_or(-1);
  }

  std::filesystem::path folder_;
  dispatch_queue_t queue_ = nullptr;
};

TEST_F(StandinTest, EndsTheProcessThatCallsOffTheQueue) {
  @autoreleasepool {
    VZVirtualMachine* const machine = make_machine();
    EXPECT_DEATH((void)[machine state], "state is called off the VM's queue");
    EXPECT_DEATH([machine startWithCompletionHandler:^(NSError*){
                 }],
                 "startWithCompletionHandler: is called off the VM's queue");
    VZVirtualMachineState state = VZVirtualMachineStateError;
    on_its_queue([&] { state = [machine state]; });
    EXPECT_EQ(state, VZVirtualMachineStateStopped);
  }
}

TEST_F(StandinTest, EndsTheProcessThatReleasesTooOften) {
  @autoreleasepool {
    NSString* const text = to_ns("text");
    EXPECT_DEATH(
        {
          StandinState& state = state_of(text);
          state.references = 0;
          [text release];
        },
        "released too often");
  }
}

TEST_F(StandinTest, EndsTheProcessThatUsesWhatCameLater) {
  @autoreleasepool {
    VZGenericPlatformConfiguration* const platform = [[[VZGenericPlatformConfiguration alloc] init] autorelease];
    EXPECT_DEATH(
        {
          ::setenv("VMTEST_SIM_VZ_OS_VERSION", "12.6", 1);
          (void)[VZEFIBootLoader alloc];
        },
        "VZEFIBootLoader came with macOS 13.0; this is macOS 12.6");
    EXPECT_DEATH(
        {
          ::setenv("VMTEST_SIM_VZ_OS_VERSION", "12.6", 1);
          [platform setMachineIdentifier:nil];
        },
        "setMachineIdentifier: came with macOS 13.0");
  }
}

TEST_F(StandinTest, EndsTheProcessThatHasNoPool) { EXPECT_DEATH((void)to_ns("text"), "there is no pool"); }

TEST_F(StandinTest, EndsTheProcessThatWaitsForItsOwnQueue) {
  // In a process of its own: ThreadSanitizer lets none make threads that was forked from one with threads.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        // Of the process that is to die: threads are not forked.
        queue_ = dispatch_queue_create("dying", DISPATCH_QUEUE_SERIAL);
        on_its_queue([&] { on_its_queue([] {}); });
      },
      "a queue waits for itself");
}

TEST_F(StandinTest, EndsTheProcessThatMakesAVmOfAnInvalidConfiguration) {
  @autoreleasepool {
    VZVirtualMachineConfiguration* const configuration = make_configuration();
    [configuration setBootLoader:nil];
    EXPECT_DEATH((void)[[VZVirtualMachine alloc] initWithConfiguration:configuration queue:queue_], "invalid configuration");
  }
}

TEST_F(StandinTest, RefusesTransitionsThatDoNotExist) {
  @autoreleasepool {
    VZVirtualMachine* const machine = make_machine();
    EXPECT_EQ(code_of([&](auto handler) { [machine pauseWithCompletionHandler:handler]; }), 4);
    EXPECT_EQ(code_of([&](auto handler) { [machine resumeWithCompletionHandler:handler]; }), 4);
    EXPECT_EQ(code_of([&](auto handler) { [machine stopWithCompletionHandler:handler]; }), 4);
    NSURL* const url = [NSURL fileURLWithPath:to_ns((folder_ / "state").string())];
    EXPECT_EQ(code_of([&](auto handler) { [machine saveMachineStateToURL:url completionHandler:handler]; }), 4);
    EXPECT_EQ(code_of([&](auto handler) { [machine restoreMachineStateFromURL:url completionHandler:handler]; }), 12);
  }
}

TEST_F(StandinTest, EndsInErrorWhenTheMachineDoesNotStart) {
  @autoreleasepool {
    VZVirtualMachine* const machine = make_machine();
    EXPECT_EQ(code_of([&](auto handler) { [machine startWithCompletionHandler:handler]; }), 1);
    on_its_queue([&] { EXPECT_EQ([machine state], VZVirtualMachineStateError); });
  }
}

TEST_F(StandinTest, ValidatesAsTheFrameworkDoes) {
  @autoreleasepool {
    const auto refuses = [&](const std::function<void(VZVirtualMachineConfiguration*)>& spoil) {
      VZVirtualMachineConfiguration* const configuration = make_configuration();
      spoil(configuration);
      NSError* error = nil;
      return [configuration validateWithError:&error] == NO && [error code] == VZErrorInvalidVirtualMachineConfiguration;
    };
    EXPECT_FALSE(refuses([](auto) {}));
    EXPECT_TRUE(refuses([](auto configuration) { [configuration setCPUCount:0]; }));
    EXPECT_TRUE(refuses([](auto configuration) { [configuration setMemorySize:(64U << 20) + 1]; }));
    EXPECT_TRUE(refuses([](auto configuration) { [configuration setMemorySize:1U << 20]; }));
    EXPECT_TRUE(refuses([](auto configuration) { [configuration setBootLoader:[[[VZEFIBootLoader alloc] init] autorelease]]; }));
    EXPECT_TRUE(
        refuses([](auto configuration) { [configuration setPlatform:[[[VZMacPlatformConfiguration alloc] init] autorelease]]; }));
  }
}

}  // namespace
}  // namespace vmtest::vz::standin
