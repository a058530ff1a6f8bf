#pragma once

#import <Foundation/Foundation.h>
#import <dispatch/dispatch.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "system_version.h"

/// What an object of a stand-in class holds: its reference count, and its properties by name.
struct StandinState {
  std::atomic<long> references{1};
  /// Owned references.
  std::map<std::string, id> objects = {};
  std::map<std::string, double> numbers = {};
  std::string text = {};
  /// Owned references.
  std::vector<id> elements = {};
  /// What only the class itself knows.
  std::shared_ptr<void> core = {};
};

namespace vmtest::vz::standin {

[[nodiscard]] StandinState& state_of(NSObject* object);
[[nodiscard]] id get_object(NSObject* object, const std::string& name);
void set_object(NSObject* object, const std::string& name, id value);
[[nodiscard]] double get_number(NSObject* object, const std::string& name);
void set_number(NSObject* object, const std::string& name, double value);

[[nodiscard]] NSString* to_ns(const std::string& text);
[[nodiscard]] std::string to_text(NSString* text);
/// Autoreleased.
[[nodiscard]] NSError* make_error(NSInteger code, const std::string& description, const std::string& reason);
/// Stores an error where the caller wants one and returns NO.
BOOL fail(NSError** error, NSInteger code, const std::string& description, const std::string& reason);

/// Whether the calling thread runs a block of that queue.
[[nodiscard]] bool on_queue(dispatch_queue_t queue);

}  // namespace vmtest::vz::standin

// A property held by name. Getter, setter.
#define VMTEST_STANDIN_OBJECT(Type, getter, setter)              \
  -(Type)getter {                                                \
    return (Type)vmtest::vz::standin::get_object(self, #getter); \
  }                                                              \
  -(void)setter : (Type)value {                                  \
    vmtest::vz::standin::set_object(self, #getter, (id)value);   \
  }
// The same, set on systems since that one alone.
#define VMTEST_STANDIN_OBJECT_SINCE(major, minor, Type, getter, setter) \
  -(Type)getter {                                                       \
    return (Type)vmtest::vz::standin::get_object(self, #getter);        \
  }                                                                     \
  -(void)setter : (Type)value {                                         \
    vmtest::vz::standin::require_system(#setter ":", (major), (minor)); \
    vmtest::vz::standin::set_object(self, #getter, (id)value);          \
  }
#define VMTEST_STANDIN_NUMBER_SINCE(major, minor, Type, getter, setter)         \
  -(Type)getter {                                                               \
    return static_cast<Type>(vmtest::vz::standin::get_number(self, #getter));   \
  }                                                                             \
  -(void)setter : (Type)value {                                                 \
    vmtest::vz::standin::require_system(#setter ":", (major), (minor));         \
    vmtest::vz::standin::set_number(self, #getter, static_cast<double>(value)); \
  }
#define VMTEST_STANDIN_NUMBER(Type, getter, setter)                             \
  -(Type)getter {                                                               \
    return static_cast<Type>(vmtest::vz::standin::get_number(self, #getter));   \
  }                                                                             \
  -(void)setter : (Type)value {                                                 \
    vmtest::vz::standin::set_number(self, #getter, static_cast<double>(value)); \
  }
#define VMTEST_STANDIN_READ_OBJECT(Type, getter)                 \
  -(Type)getter {                                                \
    return (Type)vmtest::vz::standin::get_object(self, #getter); \
  }
#define VMTEST_STANDIN_READ_NUMBER(Type, getter)                              \
  -(Type)getter {                                                             \
    return static_cast<Type>(vmtest::vz::standin::get_number(self, #getter)); \
  }
