// What the VZ helper uses of Virtualization.framework, declared anew for checks and for tests on Linux. Properties are
// declared as the methods they are. vz_api_check.py compares all of it with vz-api.tsv.
#pragma once

#import <Foundation/Foundation.h>
#import <Virtualization/VZBoot.h>
#import <Virtualization/VZDevices.h>
#import <Virtualization/VZStorage.h>
#import <Virtualization/VZVirtualMachine.h>
#import <dispatch/dispatch.h>
