#include "vmtest/error.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <system_error>

namespace vmtest {
namespace {

/// The message with which `action` throws exactly an `Exception`.
template <typename Exception, typename Action>
std::string message_of(Action action) {
  try {
    action();
  } catch (const Exception& error) {
    return typeid(error) == typeid(Exception) ? error.what() : "another type";
  }
  return "nothing thrown";
}

TEST(ErrorTest, ContextStandsInFrontOfTheCause) {
  const auto fail = [] { throw Error("the disk is full"); };
  EXPECT_EQ(message_of<Error>([&] { with_context("cannot clone", fail); }), "cannot clone\n  the disk is full");
}

TEST(ErrorTest, LayersStandOutermostFirst) {
  const auto inner = [] { with_context("cannot clone", [] { throw Error("the disk is full"); }); };
  EXPECT_EQ(message_of<Error>([&] { with_context("cannot boot", inner); }), "cannot boot\n  cannot clone\n  the disk is full");
}

TEST(ErrorTest, ContextKeepsTimeout) {
  const auto fail = [] { throw Timeout("5 s are over"); };
  EXPECT_EQ(message_of<Timeout>([&] { with_context("cannot boot", fail); }), "cannot boot\n  5 s are over");
}

TEST(ErrorTest, ContextKeepsUnsupported) {
  const auto fail = [] { throw Unsupported("no KVM here"); };
  EXPECT_EQ(message_of<Unsupported>([&] { with_context("cannot boot", fail); }), "cannot boot\n  no KVM here");
}

TEST(ErrorTest, ContextMakesAnErrorOfASystemError) {
  const auto fail = [] { throw_errno(ENOSPC, "cannot write"); };
  EXPECT_EQ(message_of<Error>([&] { with_context("cannot clone", fail); }),
            "cannot clone\n  cannot write: No space left on device");
}

TEST(ErrorTest, ContextMakesAnErrorOfAnythingThrown) {
  const auto fail = [] { throw 7; };
  EXPECT_EQ(message_of<Error>([&] { with_context("cannot clone", fail); }), "cannot clone\n  an exception of unknown type");
}

TEST(ErrorTest, ContextReturnsWhatTheBodyReturns) {
  EXPECT_EQ(with_context("cannot count", [] { return 3; }), 3);
}

TEST(ErrorTest, ThrowErrnoTakesTheCurrentOne) {
  errno = EACCES;
  EXPECT_EQ(message_of<std::system_error>([] { throw_errno("cannot open x"); }), "cannot open x: Permission denied");
}

}  // namespace
}  // namespace vmtest
