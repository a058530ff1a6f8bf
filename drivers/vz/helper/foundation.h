#pragma once

#import <Foundation/Foundation.h>

#include <string>
#include <vector>

#include "api_error.h"
#include "objc_handle.h"

namespace vmtest::vz {

// Objects returned as plain pointers belong to the autorelease pool.

[[nodiscard]] NSString* to_ns(const std::string& text);
[[nodiscard]] NSURL* file_url(const std::string& path);
/// Empty for nil.
[[nodiscard]] std::string to_text(NSString* text);

template <class T>
[[nodiscard]] NSArray* to_ns_array(const std::vector<Handle<T>>& objects) {
  std::vector<id> pointers;
  for (const Handle<T>& object : objects) pointers.push_back(object.get());
  return [NSArray arrayWithObjects:pointers.data() count:pointers.size()];
}
template <class T>
[[nodiscard]] NSArray* to_ns_array(T object) {
  return [NSArray arrayWithObjects:&object count:1];
}

[[nodiscard]] NSData* read_data(const std::string& path);
void write_data(const std::string& path, NSData* data);

/// Messages of the error and of what it says lies under it: "VZErrorDomain 2: Invalid virtual machine configuration. (reason)".
[[nodiscard]] std::vector<std::string> error_chain(NSError* error);
/// The same with the HTTP status that fits, and messages in front.
[[nodiscard]] ApiError api_error(NSError* error, const std::string& context = {});

}  // namespace vmtest::vz
