#include "foundation.h"

#include <fcntl.h>

#import <Virtualization/Virtualization.h>

#include "descriptor.h"

namespace vmtest::vz {
namespace {

/// Errors that go around in circles are not worth following.
constexpr int kDeepest = 8;

int status_of(NSError* error) {
  if (error == nil || to_text([error domain]) != "VZErrorDomain") return kFailed;
  switch ([error code]) {
    case VZErrorInvalidVirtualMachineState:
    case VZErrorInvalidVirtualMachineStateTransition:
    case VZErrorDeviceAlreadyAttached:
      return kConflict;
    case VZErrorNotSupported:
      return kNotOffered;
    default:
      return kFailed;
  }
}

}  // namespace

NSString* to_ns(const std::string& text) {
  NSString* const string = [NSString stringWithUTF8String:text.c_str()];
  if (string == nil) throw ApiError(kBadRequest, "not UTF-8: " + text);
  return string;
}

NSURL* file_url(const std::string& path) { return [NSURL fileURLWithPath:to_ns(path)]; }

std::string to_text(NSString* text) { return text == nil ? std::string() : std::string([text UTF8String]); }

NSData* read_data(const std::string& path) {
  const std::string content = read_file(path);
  return [NSData dataWithBytes:content.data() length:content.size()];
}

void write_data(const std::string& path, NSData* data) {
  const Descriptor file = open_file(path, O_WRONLY | O_CREAT | O_TRUNC);
  write_all(file.get(), {static_cast<const char*>([data bytes]), [data length]});
}

std::vector<std::string> error_chain(NSError* error) {
  std::vector<std::string> chain;
  for (int depth = 0; error != nil && depth < kDeepest; ++depth) {
    std::string message =
        to_text([error domain]) + " " + std::to_string([error code]) + ": " + to_text([error localizedDescription]);
    const std::string reason = to_text([error localizedFailureReason]);
    if (!reason.empty()) message += " (" + reason + ")";
    chain.push_back(std::move(message));
    error = [[error userInfo] objectForKey:NSUnderlyingErrorKey];
  }
  if (chain.empty()) chain.emplace_back("the framework gave no reason");
  return chain;
}

ApiError api_error(NSError* error, const std::string& context) {
  std::vector<std::string> chain = error_chain(error);
  if (!context.empty()) chain.insert(chain.begin(), context);
  return {status_of(error), std::move(chain)};
}

}  // namespace vmtest::vz
