#pragma once

#import <Foundation/Foundation.h>

#include <utility>

namespace vmtest::vz {

/// Owns one reference of an Objective-C object; T is its pointer type. By messages instead of by ARC, so that any Objective-C
/// runtime will do.
template <class T>
class Handle {
 public:
  Handle() = default;
  /// Takes over the reference that alloc, new and copy return.
  [[nodiscard]] static Handle adopt(T object) {
    Handle handle;
    handle.object_ = object;
    return handle;
  }
  /// Adds a reference.
  [[nodiscard]] static Handle share(T object) { return adopt([object retain]); }

  Handle(const Handle& other) : object_([other.object_ retain]) {}
  Handle(Handle&& other) noexcept : object_(std::exchange(other.object_, nil)) {}
  Handle& operator=(Handle other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Handle() { [object_ release]; }

  [[nodiscard]] T get() const { return object_; }
  explicit operator bool() const { return object_ != nil; }

 private:
  T object_ = nil;
};

template <class T>
[[nodiscard]] Handle<T> adopt(T object) {
  return Handle<T>::adopt(object);
}

}  // namespace vmtest::vz
