#include "kvm_probe.h"

// The guest, assembled into our read-only data for the address it is loaded at. Memory it uses beside its image:
//   0x200000 PML4, 0x201000 PDPT, 0x202000 PD of the first GiB, 0x203000 PD of the fourth, 0x204000 PT of 4-6 MiB,
//   0x206000 IDT, 0x207000 TSS; stacks end at 0x2A0000 (kernel), 0x2B0000 (page faults), 0x2C0000 (user).
asm(R"(
  .pushsection .rodata.vmtest_kvm_probe, "a", @progbits
  .balign 16
  .globl vmtest_kvm_probe_begin
  .globl vmtest_kvm_probe_end
vmtest_kvm_probe_begin:
  .set vmtest_probe_base, 0x100000

  # Multiboot header with addresses: load this file at the base and enter it in 32-bit protected mode.
  .long 0x1BADB002, 0x00010000, -(0x1BADB002 + 0x00010000)
  .long vmtest_probe_base, vmtest_probe_base
  .long vmtest_kvm_probe_end - vmtest_kvm_probe_begin + vmtest_probe_base
  .long vmtest_kvm_probe_end - vmtest_kvm_probe_begin + vmtest_probe_base
  .long .Lprobe_entry - vmtest_kvm_probe_begin + vmtest_probe_base

  .code32
.Lprobe_entry:
  cli
  cld
  movl $0x2A0000, %esp
  movl $0x200000, %edi            # clear tables
  xorl %eax, %eax
  movl $0x2000, %ecx
  rep stosl

  movl $0x201007, 0x200000        # PML4[0] -> PDPT
  movl $0x202007, 0x201000        # PDPT[0] -> first GiB
  movl $0x203007, 0x201018        # PDPT[3] -> fourth GiB, where the local APIC is
  movl $0x202000, %edi            # 2 MiB pages, user and writable
  movl $0x000087, %eax
  movl $512, %ecx
1: movl %eax, (%edi)
  addl $0x200000, %eax
  addl $8, %edi
  loop 1b
  movl $0x203000, %edi            # the same, uncached
  movl $0xC0000097, %eax
  movl $512, %ecx
2: movl %eax, (%edi)
  addl $0x200000, %eax
  addl $8, %edi
  loop 2b
  movl $0x204007, 0x202010        # 4-6 MiB by 4 KiB pages, of which only the first is there, not executable
  movl $0x400003, 0x204000
  movl $0x80000000, 0x204004

  lgdt .Lprobe_gdt_pointer - vmtest_kvm_probe_begin + vmtest_probe_base
  movl $0x80000001, %eax
  cpuid
  testl $(1 << 29), %edx          # long mode
  jz .Lprobe_fail32
  movl %cr4, %eax
  orl $0x6A0, %eax                # PAE, PGE, OSFXSR, OSXMMEXCPT
  movl %eax, %cr4
  movl $0x200000, %eax
  movl %eax, %cr3
  movl $0xC0000080, %ecx          # EFER: SCE, LME, NXE
  rdmsr
  orl $0x901, %eax
  wrmsr
  movl %cr0, %eax
  andl $0x9FFFFFF3, %eax          # caches on, no EM, no TS
  orl $0x80010022, %eax           # PG, WP, NE, MP
  movl %eax, %cr0
  ljmp $0x08, $(.Lprobe_long - vmtest_kvm_probe_begin + vmtest_probe_base)
.Lprobe_fail32:
  movb $0x01, %al
  outb %al, $0xF4
  hlt
  jmp .Lprobe_fail32

  .code64
.Lprobe_long:
  movl $0x10, %eax
  movl %eax, %ds
  movl %eax, %es
  movl %eax, %ss
  movl $0x2A0000, %esp
  movl $0xC0000080, %ecx
  rdmsr
  testl $0x400, %eax              # EFER.LMA: it really runs in long mode
  jz .Lprobe_fail
  movb $'A', %al
  outb %al, $0xE9

  # IDT: every vector fails but those that are expected.
  leaq .Lprobe_fail(%rip), %rax
  xorl %edi, %edi
3: xorl %edx, %edx
  call .Lprobe_set_gate
  incl %edi
  cmpl $256, %edi
  jne 3b
  leaq .Lprobe_on_breakpoint(%rip), %rax
  movl $3, %edi
  call .Lprobe_set_gate
  leaq .Lprobe_on_invalid(%rip), %rax
  movl $6, %edi
  call .Lprobe_set_gate
  leaq .Lprobe_on_timer(%rip), %rax
  movl $0x40, %edi
  call .Lprobe_set_gate
  leaq .Lprobe_on_page_fault(%rip), %rax
  movl $14, %edi
  movl $1, %edx                   # on a stack of its own (IST 1)
  call .Lprobe_set_gate
  lidt .Lprobe_idt_pointer(%rip)
  movq $0x2A0000, 0x207004        # TSS: RSP0 and IST1
  movq $0x2B0000, 0x207024
  movw $0x28, %ax                 # its descriptor's busy bit is written, so the table must be writable memory
  ltr %ax

  xorl %ebx, %ebx
  int3
  cmpl $1, %ebx
  jne .Lprobe_fail
  ud2
  cmpl $2, %ebx
  jne .Lprobe_fail
  movb $'B', %al
  outb %al, $0xE9

  movl $0x12345678, 0x401000      # not there: the handler puts it there
  cmpl $3, %ebx
  jne .Lprobe_fail
  cmpl $0x12345678, 0x401000
  jne .Lprobe_fail
  movq %cr3, %rax                 # a full flush
  movq %rax, %cr3
  cmpl $0x12345678, 0x401000
  jne .Lprobe_fail
  movb $'C', %al
  outb %al, $0xE9

  # CPUID all over, SSE, and the extended state where there is one.
  xorl %eax, %eax
  cpuid
  movl %eax, %r12d
4: movl %r12d, %eax
  xorl %ecx, %ecx
  cpuid
  decl %r12d
  jns 4b
  movl $3, %eax
  cvtsi2sd %eax, %xmm0
  mulsd %xmm0, %xmm0
  cvttsd2si %xmm0, %eax
  cmpl $9, %eax
  jne .Lprobe_fail
  movl $1, %eax
  cpuid
  testl $(1 << 26), %ecx          # XSAVE
  jz 5f
  movq %cr4, %rax
  orl $0x40000, %eax
  movq %rax, %cr4
  xorl %ecx, %ecx
  xgetbv
  orl $3, %eax
  xsetbv
5: movb $'D', %al
  outb %al, $0xE9

  # MSRs a kernel lives by.
  movl $0xC0000100, %ecx          # FS base
  movl $0x205000, %eax
  xorl %edx, %edx
  wrmsr
  movl $0xC0000101, %ecx          # GS base
  movl $0x205100, %eax
  wrmsr
  movl $0xC0000102, %ecx          # the other GS base
  movl $0x205200, %eax
  wrmsr
  movl $0x11, 0x205008
  movl $0x22, 0x205108
  movl $0x33, 0x205208
  cmpl $0x11, %fs:8
  jne .Lprobe_fail
  cmpl $0x22, %gs:8
  jne .Lprobe_fail
  swapgs
  cmpl $0x33, %gs:8
  jne .Lprobe_fail
  movl $0x277, %ecx               # page attribute table
  rdmsr
  wrmsr
  movl $0x10, %ecx                # time stamp counter: it moves
  rdmsr
  movl %eax, %r12d
  rdtsc
  cmpl %r12d, %eax
  je .Lprobe_fail
  movb $'E', %al
  outb %al, $0xE9

  # User mode and back by a system call.
  movl $0xC0000081, %ecx          # STAR
  xorl %eax, %eax
  movl $0x00100008, %edx
  wrmsr
  leaq .Lprobe_on_syscall(%rip), %rax
  movl $0xC0000082, %ecx          # LSTAR
  xorl %edx, %edx
  wrmsr
  movl $0xC0000084, %ecx          # flags cleared on entry
  movl $0x700, %eax
  wrmsr
  leaq .Lprobe_user(%rip), %rcx
  movl $0x2, %r11d
  movl $0x2C0000, %esp
  sysretq
.Lprobe_user:
  movl $0x600D, %r13d
  movl %cs, %r14d
  pushq %r13
  popq %r15
  syscall
  hlt
.Lprobe_on_syscall:
  movl $0x2A0000, %esp
  cmpl $0x23, %r14d
  jne .Lprobe_fail
  cmpl $0x600D, %r15d
  jne .Lprobe_fail
  movb $'F', %al
  outb %al, $0xE9

  # The local APIC's timer wakes a halted CPU, again and again.
  movb $0xFF, %al
  outb %al, $0x21
  outb %al, $0xA1
  movl $0xFEE00000, %r12d
  movl $0x1FF, 0xF0(%r12)
  movl $0x3, 0x3E0(%r12)
  movl $0x20040, 0x320(%r12)
  movl $0x10000, 0x380(%r12)
  xorl %ebx, %ebx
6: sti
  hlt
  cli
  cmpl $20, %ebx
  jb 6b
  movl $0x10000, 0x320(%r12)
  movb $'G', %al
  outb %al, $0xE9

  # Task priority, debug registers, and work that leaves no translation as it was.
  movl $5, %eax
  movq %rax, %cr8
  movq %cr8, %rax
  cmpl $5, %eax
  jne .Lprobe_fail
  xorl %eax, %eax
  movq %rax, %cr8
  movq %rax, %dr0
  movq %dr7, %rax
  movl $1000, %ecx
7: movl $0x402003, 0x204010
  movl %ecx, 0x402000
  cmpl %ecx, 0x402000
  jne .Lprobe_fail
  movl $0, 0x204010
  invlpg 0x402000
  loop 7b
  movb $'H', %al
  outb %al, $0xE9
  movb $0x2A, %al
  outb %al, $0xF4

.Lprobe_fail:
  movb $'!', %al
  outb %al, $0xE9
  movb $0x01, %al
  outb %al, $0xF4
  cli
  hlt
  jmp .Lprobe_fail

  # Gate for vector %edi: handler %rax, stack table entry %edx.
.Lprobe_set_gate:
  movl %edi, %ecx
  shll $4, %ecx
  movw %ax, 0x206000(%rcx)
  movw $0x08, 0x206002(%rcx)
  movb %dl, 0x206004(%rcx)
  movb $0x8E, 0x206005(%rcx)
  movq %rax, %rsi
  shrq $16, %rsi
  movw %si, 0x206006(%rcx)
  shrq $16, %rsi
  movl %esi, 0x206008(%rcx)
  ret

.Lprobe_on_breakpoint:
  incl %ebx
  iretq
.Lprobe_on_invalid:
  incl %ebx
  addq $2, (%rsp)
  iretq
.Lprobe_on_page_fault:
  pushq %rax
  movq %cr2, %rax
  cmpq $0x401000, %rax
  jne .Lprobe_fail
  movl $0x401003, 0x204008
  invlpg 0x401000
  incl %ebx
  popq %rax
  addq $8, %rsp                   # error code
  iretq
.Lprobe_on_timer:
  incl %ebx
  movl $0, 0xB0(%r12)             # end of interrupt
  iretq

  .balign 16
.Lprobe_gdt:
  .quad 0
  .quad 0x00AF9B000000FFFF        # 0x08 kernel code, 64 bit
  .quad 0x00CF93000000FFFF        # 0x10 kernel data
  .quad 0x00CFF3000000FFFF        # 0x18 user data
  .quad 0x00AFFB000000FFFF        # 0x20 user code, 64 bit
  .quad 0x0000892070000067        # 0x28 task state at 0x207000
  .quad 0
.Lprobe_gdt_pointer:
  .word 55
  .long .Lprobe_gdt - vmtest_kvm_probe_begin + vmtest_probe_base
  .long 0
.Lprobe_idt_pointer:
  .word 4095
  .quad 0x206000
  .balign 16
vmtest_kvm_probe_end:
  .popsection
)");

extern "C" {
extern const char vmtest_kvm_probe_begin[];
extern const char vmtest_kvm_probe_end[];
}

namespace vmtest {

std::string_view kvm_probe_image() {
  return {vmtest_kvm_probe_begin, static_cast<std::size_t>(vmtest_kvm_probe_end - vmtest_kvm_probe_begin)};
}

std::string_view kvm_probe_stage(char letter) {
  switch (letter) {
    case 'A':
      return "paging and 64-bit mode";
    case 'B':
      return "exceptions";
    case 'C':
      return "a page fault";
    case 'D':
      return "CPUID and SSE";
    case 'E':
      return "model-specific registers";
    case 'F':
      return "user mode and a system call";
    case 'G':
      return "timer interrupts";
    case 'H':
      return "control registers and page table changes";
    default:
      return "its start";
  }
}

}  // namespace vmtest
