/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The agent: runs syscall programs inside a task. It has no stack, no data and takes no decisions.
 *
 * Entered with rbx = the lane. It waits on two futexes at once (futex_waitv(2)): its own LANE_COMMAND word, which the
 * coordinator counts up when it has a program (so that no wake-up can be lost), and the coordinator's robust futex, whose
 * word the kernel marks with FUTEX_OWNER_DIED when the coordinator dies in whatever way
 * (Documentation/locking/robust-futexes.rst). Then the agent goes home: it makes one last system call at a `syscall; ret` of the program's own code with the stack pointer at a prepared signal frame, so that
 * the `ret` leads to rt_sigreturn(2) and the thread goes on as if nothing had happened. A task of an unfinished restore has
 * no home and dies.
 *
 * It is 64-bit code in tasks of 32-bit programs, too: there it makes some calls by `int $0x80`, which is open to 64-bit code
 * and means 32-bit numbers and arguments, as what the kernel keeps of such a call is marked so. Their way home is one, too.
 *
 * The kernel preserves every register but rax, rcx and r11.
 *   rbx lane   r12 op   r13 index   r14 results   r15 data   rbp number of ops
 */
#include "lane.h"

#define NR_sched_yield 24
#define NR_kill 62
#define NR_getpid 39
#define NR_futex 202
#define NR_futex_waitv 449
#define FUTEX_WAIT 0
#define FUTEX_WAKE 1
#define FUTEX_OWNER_DIED 0x40000000
#define SIGKILL 9
#define EEXIST 17
#define CLONE_TRIES 40000

	.section .rodata
	.balign 64
	.globl agent_start, agent_end
	.hidden agent_start, agent_end
agent_start:
wait_command:
	movl	LANE_COMMAND(%rbx), %eax
	cmpl	LANE_DONE(%rbx), %eax
	jne	run
	movq	%rax, LANE_WAITV(%rbx)
	movl	$NR_futex_waitv, %eax
	leaq	LANE_WAITV(%rbx), %rdi
	movl	$2, %esi
	xorl	%edx, %edx
	xorl	%r10d, %r10d
	xorl	%r8d, %r8d
	syscall
	movq	LANE_ALIVE(%rbx), %rcx
	movl	(%rcx), %eax
	testl	$FUTEX_OWNER_DIED, %eax
	jz	wait_command
	jmp	home

run:
	movq	LANE_OPS(%rbx), %r12
	movq	LANE_N_OPS(%rbx), %rbp
	movq	LANE_RESULTS(%rbx), %r14
	movq	LANE_DATA(%rbx), %r15
	xorl	%r13d, %r13d
next:
	cmpq	%rbp, %r13
	jae	finished
	movzwl	OP_KINDS(%r12), %ecx
	.macro	argument i, reg
	movq	OP_ARGS + 8 * \i(%r12), \reg
	testl	$(1 << (2 * \i)), %ecx
	jz	1f
	addq	%r15, \reg
1:	testl	$(2 << (2 * \i)), %ecx
	jz	2f
	movq	(%r14, \reg, 8), \reg
2:
	.endm
	argument 0, %rdi
	argument 1, %rsi
	argument 2, %rdx
	argument 3, %r10
	argument 4, %r8
	argument 5, %r9
	movl	OP_NR(%r12), %eax
	testw	$(OP_FLAG_IA32 | OP_FLAG_REPEAT), OP_FLAGS(%r12)
	jnz	special
call:
	syscall
	testw	$(OP_FLAG_CLONE | OP_FLAG_TILES), OP_FLAGS(%r12)
	jz	store
	testq	%rax, %rax
	jnz	missed
	testw	$OP_FLAG_TILES, OP_FLAGS(%r12)
	jnz	tiles
	movq	OP_EXTRA(%r12), %rbx
	jmp	wait_command
missed:
	/* The kernel gives a thread's number back a moment after its process could be waited for. clone3(2) has no use for r9,
	 * which is 0 at first. */
	cmpq	$-EEXIST, %rax
	jne	store
	testw	$OP_FLAG_CLONE, OP_FLAGS(%r12)
	jz	store
	incl	%r9d
	cmpl	$CLONE_TRIES, %r9d
	ja	store
	movl	$NR_sched_yield, %eax
	syscall
	movl	OP_NR(%r12), %eax
	jmp	call
tiles:
	ldtilecfg (%rdx)
	tilerelease
store:
	movq	%rax, (%r14, %r13, 8)
	cmpq	$-4096, %rax
	jbe	succeeded
	testw	$OP_FLAG_IGNORE, OP_FLAGS(%r12)
	jz	finished
succeeded:
	incq	%r13
	addq	$OP_SIZE, %r12
	jmp	next

special:
	testw	$OP_FLAG_REPEAT, OP_FLAGS(%r12)
	jz	ia32
repeat:
	cmpq	OP_EXTRA(%r12), %rdi
	jae	repeated
	movl	OP_NR(%r12), %eax
	syscall
	movb	%al, (%r9)
	incq	%r9
	incq	%rdi
	jmp	repeat
repeated:
	xorl	%eax, %eax
	jmp	store

ia32:
	/* ebx, ecx, edx, esi, edi, ebp */
	movl	%esi, %ecx
	movl	%r10d, %esi
	movq	%rbx, %r10
	movl	%edi, %ebx
	movl	%r8d, %edi
	movq	%rbp, %r11
	movl	%r9d, %ebp
	int	$0x80
	movq	%r11, %rbp
	movq	%r10, %rbx
	jmp	store

finished:
	movq	%r13, LANE_STOPPED(%rbx)
	movl	LANE_COMMAND(%rbx), %eax
	movl	%eax, LANE_DONE(%rbx)
	movl	$NR_futex, %eax
	leaq	LANE_DONE(%rbx), %rdi
	movl	$FUTEX_WAKE, %esi
	movl	$1, %edx
	syscall
	jmp	wait_command

home:
	/* the kernel woke one waiter only */
	movl	$NR_futex, %eax
	movq	LANE_ALIVE(%rbx), %rdi
	movl	$FUTEX_WAKE, %esi
	movl	$0x7fffffff, %edx
	syscall
	cmpq	$LANE_HOME_GO, LANE_HOME(%rbx)
	jne	die
	movq	LANE_HOME_WAIT(%rbx), %rdi
	testq	%rdi, %rdi
	jz	leave
wait_others:
	movl	(%rdi), %edx
	testl	%edx, %edx
	jz	leave
	movl	$NR_futex, %eax
	movl	$FUTEX_WAIT, %esi
	xorl	%r10d, %r10d
	syscall
	jmp	wait_others
leave:
	movq	LANE_HOME_SP(%rbx), %rsp
	movq	LANE_HOME_NR(%rbx), %rax
	movq	LANE_HOME_ARGS(%rbx), %rdi
	movq	LANE_HOME_ARGS + 8(%rbx), %rsi
	movq	LANE_HOME_ARGS + 16(%rbx), %rdx
	movq	LANE_HOME_ARGS + 24(%rbx), %r10
	movq	LANE_HOME_ARGS + 32(%rbx), %r8
	movq	LANE_HOME_ARGS + 40(%rbx), %r9
	movq	LANE_HOME_IP(%rbx), %r11
	movq	%rsi, %rcx /* int $0x80 takes the first two here */
	movq	%rdi, %rbx
	jmp	*%r11
die:
	movl	$NR_getpid, %eax
	syscall
	movq	%rax, %rdi
	movl	$SIGKILL, %esi
	movl	$NR_kill, %eax
	syscall
	jmp	die
agent_end:

	.section .note.GNU-stack, "", @progbits
