//! The page that takes the vsyscall page's place in a file: the same three entries at the same distances, which call
//! the kernel's vDSO, and the code that looks for the vDSO when the program starts.
//!
//! # What an entry does
//!
//! It jumps through its pointer, which stands in a page of its own that can be written; where the pointer is null, it
//! makes the system call. The jump leaves nothing on the stack: a signal, a debugger or an unwinder finds the caller
//! right above the vDSO's function, which has unwind information of its own. The page has none: between an entry and its
//! jump, and around its system call, the return address is on top of the stack, as at the begin of any function, which
//! gdb assumes. The entry that keeps all registers and the init code move the stack pointer; who stops there, or gets a
//! signal there, sees no caller.
//!
//! An entry changes what a function may change (System V ABI), but no vector register, uses no stack of its own, and
//! does not know errno. The vDSO's functions take less than 200 bytes of stack. For callers that expect more to be
//! kept there is a second way in, which keeps the registers, the flags and the 128 bytes below the stack pointer, and
//! takes 208 bytes more.
//!
//! # Who fills in the pointers
//!
//! The page's init code, once, before the program's own first instruction or the object's own init function: it finds
//! the auxiliary vector behind the environment on the initial stack, in it the address of the vDSO
//! (`AT_SYSINFO_EHDR`), and in its symbol table `__vdso_gettimeofday`, `__vdso_time` and `__vdso_getcpu` of the version
//! `LINUX_2.6`. It reads memory only, and makes no system call. It takes 128 bytes of stack and keeps all registers.
//!
//! * *Before it ran* (IFUNC resolvers, constructors of other objects, the loader itself), *without a vDSO* (`vdso=0`,
//!   emulators, some sandboxes) or *without the symbol*: the pointer is null, and the system call is made.
//! * *An executable* is entered with the initial stack, with or without an interpreter. *A shared object* gets `argc`
//!   and `argv` from glibc's loader; the environment and the auxiliary vector stand behind `argv`. That is so too for
//!   `dlopen` at any later time, since glibc passes on the first `argv`, and `setenv` moves the array of
//!   the environment, but not what stands behind it. `unsetenv` (which the loader calls for set-user-ID programs) leaves
//!   null words before the auxiliary vector, which are skipped. Where a program has cut its environment short in other
//!   ways before it calls `dlopen`, the vDSO may not be found.
//! * *Another loader* may hand over nothing: musl takes `libc.so.6` for itself, and calls init functions without
//!   arguments. So `argc` and `argv` must be plausible: positive, aligned, above the stack pointer and below
//!   2^47, `argc` once more before `argv` as the kernel puts it, a null behind it. Else the system calls are made. It
//!   is no proof: a register that by chance points above the stack to where no memory is would end in SIGSEGV.
//! * *Threads, signals*: each pointer is written once by one aligned store, before another thread can be in this object,
//!   and read by one load.
//! * *fork, vfork, clone*: the vDSO stays where it is in the child's memory. *exec*: all begins anew.
//! * *set-user-ID programs*: the auxiliary vector is the kernel's, no user can change it.
//! * *Checkpoint and restore*: CRIU puts the vDSO back at its address; where the new kernel has another one, it
//!   leaves jumps to it at the old functions. It is the same with the pointers that glibc keeps.
//! * *A bad pointer* as an argument ends in SIGSEGV, as the emulated page has it; the system call gives `-EFAULT`.
//! * *seccomp*: the vDSO's functions make no other system calls than the one that they stand for, where they make one.

use iced_x86::code_asm::{
    AsmRegister64, CodeAssembler, CodeLabel, al, byte_ptr, dl, dword_ptr, eax, ebp, ebx, ecx, edi, edx, esi,
    ptr, qword_ptr, r8, r9, r9d, r10, r10d, r11, r12, r12d, r13, r13d, r14, r14d, r15, r15d, rax, rbp, rbx,
    rcx, rdi, rdx, rsi, rsp, word_ptr,
};
use iced_x86::{Code, IcedError, Instruction, MemoryOperand, Register};

use crate::addr::{Vaddr, VaddrRange};
use crate::elf::{Image, PAGE_SIZE};
use crate::encode::Kept;
use crate::vsyscall::{ENTRY_STRIDE, Entry};

/// Bytes of the three pointers, in the entries' order.
pub(crate) const POINTERS_SIZE: u64 = 24;

/// From an entry to the one that keeps all registers.
const PRESERVING: u64 = 0x40;
/// Where the init code is in the page: between the first two entries.
const INIT: u64 = 0x80;
/// Where the names are: between the last two entries.
const NAMES: u64 = 0x480;
const NAME_SIZE: usize = 24;
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
/// What stands where nothing is: `int3`.
pub(crate) const FREE_BYTE: u8 = 0xcc;
/// What a function may keep below its stack pointer (System V ABI), in bytes.
const RED_ZONE: i32 = 128;

/// What the init code finds when it is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// The initial stack at `rsp`: the first instruction of a program.
    Program,
    /// `argc` and `argv` as arguments: the init function of a shared object.
    Object,
}

/// Where the page and what belongs to it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Its first byte. It ends where a page of memory ends.
    pub(crate) vaddr: Vaddr,
    /// The three pointers.
    pub(crate) pointers: Vaddr,
    pub(crate) start: Start,
    /// What the init code goes on with: the program's, or the object's own.
    pub(crate) next: Vaddr,
    /// Functions begin with `endbr64`.
    pub(crate) ibt: bool,
}

impl Page {
    /// From the page's first byte to where it is free.
    pub(crate) const FREE: u64 = 0x880;

    /// The address that stands in for that of `entry`; whoever wants more kept than by a function gets all kept.
    pub(crate) fn entry(&self, entry: Entry, kept: Kept) -> Vaddr {
        let preserving = kept != Kept::AsFunction;
        self.vaddr.plus(entry as u64 * ENTRY_STRIDE + if preserving { PRESERVING } else { 0 })
    }

    /// The page in `image` whose init code begins at `init`; nothing where there is none.
    pub(crate) fn begun_at(image: &Image<'_>, init: Vaddr, start: Start) -> Option<Self> {
        const LOAD: [u8; 3] = [0x48, 0x8b, 0x05]; // mov at(%rip),%rax
        const JUMP: usize = 5;
        let vaddr = Vaddr(init.0.checked_sub(INIT)?);
        let bytes = image.bytes_at(vaddr)?.get(..Self::FREE as usize)?;
        if !bytes[NAMES as usize..].starts_with(NAMES_OF_VDSO[0]) {
            return None;
        }
        let (ibt, entry) = match bytes.strip_prefix(&ENDBR64) {
            Some(behind) => (true, behind),
            None => (false, bytes),
        };
        let relative = |behind: usize, distance: &[u8]| {
            let distance = i64::from(i32::from_le_bytes(*distance.first_chunk()?));
            Some(vaddr.plus(behind as u64).plus(distance.cast_unsigned()))
        };
        let load = bytes.len() - entry.len() + LOAD.len();
        let pointers = relative(load + 4, entry.strip_prefix(&LOAD)?)?;
        // The last jump; the end of its distance may look as what is free does.
        let code = &bytes[..ENTRY_STRIDE as usize];
        let end = code.iter().rposition(|&byte| byte != FREE_BYTE)? + 1;
        (end..(end + JUMP).min(code.len())).find_map(|end| {
            let next = relative(end, &code[end.checked_sub(JUMP - 1)?..])?;
            let page = Self { vaddr, pointers, start, next, ibt };
            (page.code()? == bytes).then_some(page)
        })
    }

    /// What is behind the code: room for detours.
    pub(crate) fn room(&self) -> VaddrRange {
        VaddrRange { start: self.free(), end: Vaddr(self.start_of_memory_page() + PAGE_SIZE) }
    }

    fn start_of_memory_page(&self) -> u64 {
        self.vaddr.0 & !(PAGE_SIZE - 1)
    }

    /// Where the init code begins.
    pub(crate) fn init(&self) -> Vaddr {
        self.vaddr.plus(INIT)
    }

    /// The first byte that nothing stands in; it is free from there to the page's end.
    pub(crate) fn free(&self) -> Vaddr {
        self.vaddr.plus(Self::FREE)
    }

    /// The bytes of the page up to where it is free; nothing where a distance does not fit into 32 bits.
    pub(crate) fn code(&self) -> Option<Vec<u8>> {
        self.assembled().ok()
    }

    fn assembled(&self) -> Result<Vec<u8>, IcedError> {
        let mut page = vec![FREE_BYTE; Self::FREE as usize];
        let mut put = |at: u64, bytes: &[u8]| {
            page[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        };
        for entry in Entry::ALL {
            let at = entry as u64 * ENTRY_STRIDE;
            put(at, &self.entry_code(entry)?);
            put(at + PRESERVING, &self.preserving_code(entry)?);
        }
        put(INIT, &self.init_code()?);
        for (number, name) in NAMES_OF_VDSO.iter().enumerate() {
            let mut field = [0; NAME_SIZE];
            field[..name.len()].copy_from_slice(name);
            put(NAMES + (number * NAME_SIZE) as u64, &field);
        }
        Ok(page)
    }

    fn function(&self) -> Result<CodeAssembler, IcedError> {
        let mut code = CodeAssembler::new(64)?;
        if self.ibt {
            code.endbr64()?;
        }
        Ok(code)
    }

    fn entry_code(&self, entry: Entry) -> Result<Vec<u8>, IcedError> {
        let mut code = self.function()?;
        let mut system_call = code.create_label();
        let pointer = self.pointers.plus(entry as u64 * 8);
        code.add_instruction(load(Register::RAX, pointer)?)?; // one load: whole or not there
        code.test(rax, rax)?;
        code.je(system_call)?;
        code.jmp(rax)?; // the vDSO's function returns to the caller
        code.set_label(&mut system_call)?;
        code.mov(eax, entry.syscall_number())?;
        code.syscall()?;
        code.ret()?;
        code.assemble(self.entry(entry, Kept::AsFunction).0)
    }

    fn preserving_code(&self, entry: Entry) -> Result<Vec<u8>, IcedError> {
        const KEPT: [AsmRegister64; 8] = [rcx, rdx, rsi, rdi, r8, r9, r10, r11];
        let mut code = self.function()?;
        code.lea(rsp, ptr(rsp - RED_ZONE))?; // what a caller keeps below its stack pointer stays
        for register in KEPT {
            code.push(register)?;
        }
        code.pushfq()?; // the ninth word: the stack is aligned at the call as the ABI has it
        code.call(self.entry(entry, Kept::AsFunction).0)?;
        code.popfq()?;
        for register in KEPT.into_iter().rev() {
            code.pop(register)?;
        }
        code.lea(rsp, ptr(rsp + RED_ZONE))?;
        code.ret()?;
        code.assemble(self.entry(entry, Kept::RegistersAndRedZone).0)
    }

    fn init_code(&self) -> Result<Vec<u8>, IcedError> {
        const KEPT: [AsmRegister64; 15] =
            [rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
        const WORD: i32 = 8;
        let mut code = self.function()?;
        let mut done = code.create_label();
        for register in KEPT {
            code.push(register)?;
        }
        // rsi: the first word of the environment.
        match self.start {
            Start::Program => {
                let argc = KEPT.len() as i32 * WORD;
                code.mov(rax, qword_ptr(rsp + argc))?;
                code.lea(rsi, ptr(rsp + rax * 8 + (argc + 2 * WORD)))?; // behind argc, argv and its null
            }
            Start::Object => {
                skip_arguments(&mut code, done)?;
            }
        }
        find_vdso(&mut code, done)?;
        read_program_headers(&mut code, done)?;
        read_dynamic_table(&mut code, done)?;
        let counted = code.create_label();
        count_symbols(&mut code, counted, done)?;
        self.store_functions(&mut code, counted, done)?;
        code.set_label(&mut done)?;
        for register in KEPT.into_iter().rev() {
            code.pop(register)?;
        }
        code.jmp(self.next.0)?;
        code.assemble(self.init().0)
    }

    /// At `symbol`: each symbol, from the last to the first, against the names. In: `rbp`, `rbx`, `r14`, `r15` as the dynamic table
    /// has them, `r8` what addresses are off by, `ecx` the number of symbols.
    fn store_functions(
        &self,
        code: &mut CodeAssembler,
        mut symbol: CodeLabel,
        done: CodeLabel,
    ) -> Result<(), IcedError> {
        let names = self.vaddr.plus(NAMES);
        let version_name = names.plus((Entry::ALL.len() * NAME_SIZE) as u64);
        let mut is_function = code.create_label();
        let mut name = code.create_label();
        let mut found = code.create_label();
        let mut definition = code.create_label();
        let mut next_definition = code.create_label();
        let mut version = code.create_label();
        let mut store = code.create_label();
        let mut equal = code.create_label();
        let mut equal_next = code.create_label();
        let mut equal_end = code.create_label();

        code.set_label(&mut symbol)?;
        code.test(ecx, ecx)?;
        code.je(done)?;
        code.dec(ecx)?; // ecx: the symbol's number
        code.lea(rax, ptr(rcx + rcx * 2))?;
        code.lea(r9, ptr(rbx + rax * 8))?; // r9: the symbol, 24 bytes each
        code.mov(al, byte_ptr(r9 + 4))?; // st_info
        code.mov(dl, al)?;
        code.and(al, 15)?;
        code.je(is_function)?; // STT_NOTYPE
        code.cmp(al, 2)?; // STT_FUNC
        code.jne(symbol)?;
        code.set_label(&mut is_function)?;
        code.shr(dl, 4)?;
        code.dec(dl)?;
        code.cmp(dl, 1)?; // STB_GLOBAL or STB_WEAK
        code.ja(symbol)?;
        code.cmp(word_ptr(r9 + 6), 0)?; // st_shndx: SHN_UNDEF
        code.je(symbol)?;

        code.mov(esi, dword_ptr(r9))?; // st_name
        code.add(rsi, rbp)?;
        code.add_instruction(address(Register::RDI, names)?)?;
        code.xor(r10d, r10d)?; // r10: the number of the name
        code.set_label(&mut name)?;
        code.call(equal)?;
        code.je(found)?;
        code.add(rdi, NAME_SIZE as i32)?;
        code.inc(r10d)?;
        code.cmp(r10d, Entry::ALL.len() as i32)?;
        code.jb(name)?;
        code.jmp(symbol)?;

        code.set_label(&mut found)?;
        code.test(r14, r14)?; // no versions: any will do
        code.je(store)?;
        code.test(r15, r15)?;
        code.je(store)?;
        code.movzx(eax, word_ptr(r14 + rcx * 2))?;
        code.and(eax, 0x7fff)?; // without the bit that hides it
        code.mov(r11, r15)?;
        code.set_label(&mut definition)?;
        code.test(byte_ptr(r11 + 2), 1)?; // VER_FLG_BASE: the file's own name
        code.jne(next_definition)?;
        code.movzx(edx, word_ptr(r11 + 4))?; // vd_ndx
        code.and(edx, 0x7fff)?;
        code.cmp(edx, eax)?;
        code.je(version)?;
        code.set_label(&mut next_definition)?;
        code.mov(edx, dword_ptr(r11 + 16))?; // vd_next
        code.test(edx, edx)?;
        code.je(symbol)?; // a version that is not defined
        code.add(r11, rdx)?;
        code.jmp(definition)?;
        code.set_label(&mut version)?;
        code.mov(edx, dword_ptr(r11 + 12))?; // vd_aux
        code.mov(esi, dword_ptr(r11 + rdx))?; // vda_name
        code.add(rsi, rbp)?;
        code.add_instruction(address(Register::RDI, version_name)?)?;
        code.call(equal)?;
        code.jne(symbol)?;

        code.set_label(&mut store)?;
        code.add_instruction(address(Register::RDX, self.pointers)?)?;
        code.mov(rax, qword_ptr(r9 + 8))?; // st_value
        code.add(rax, r8)?;
        code.mov(qword_ptr(rdx + r10 * 8), rax)?;
        code.jmp(symbol)?;

        // Whether the strings at rsi and rdi are equal, as the zero flag. Changes rax and rdx.
        code.set_label(&mut equal)?;
        code.xor(edx, edx)?;
        code.set_label(&mut equal_next)?;
        code.mov(al, byte_ptr(rdi + rdx))?;
        code.cmp(al, byte_ptr(rsi + rdx))?;
        code.jne(equal_end)?;
        code.inc(rdx)?;
        code.test(al, al)?;
        code.jne(equal_next)?;
        code.set_label(&mut equal_end)?;
        code.ret()
    }
}

/// The names of the vDSO's functions in the entries' order, and of their version.
const NAMES_OF_VDSO: [&[u8]; 4] = [b"__vdso_gettimeofday", b"__vdso_time", b"__vdso_getcpu", b"LINUX_2.6"];

/// In: `edi` and `rsi`, which should be `argc` and `argv`, and may be anything. Out: `rsi` the first word of the environment.
fn skip_arguments(code: &mut CodeAssembler, done: CodeLabel) -> Result<(), IcedError> {
    /// Addresses of a program have no bit from here on, but for those that it asks for by their number.
    const ADDRESS_BITS: u32 = 47;
    code.mov(eax, edi)?; // rax: argc; the upper half of rdi may hold anything
    code.test(eax, eax)?;
    code.jle(done)?; // none: nobody starts a program so, and zeros are everywhere
    code.test(esi, 7)?; // a word of a stack
    code.jne(done)?;
    code.cmp(rsi, rsp)?; // above all that was called since
    code.jbe(done)?;
    code.lea(rdx, ptr(rsi + rax * 8))?; // rdx: the null behind argv
    for at in [rsi, rdx] {
        code.mov(rcx, at)?;
        code.shr(rcx, ADDRESS_BITS)?;
        code.jne(done)?;
    }
    code.cmp(qword_ptr(rsi - 8), rax)?; // the kernel puts argc there
    code.jne(done)?;
    code.cmp(qword_ptr(rdx), 0)?;
    code.jne(done)?;
    code.lea(rsi, ptr(rdx + 8))
}

/// In: `rsi` the first word of the environment. Out: `rdi` the vDSO.
fn find_vdso(code: &mut CodeAssembler, done: CodeLabel) -> Result<(), IcedError> {
    /// Null words that the environment may leave when variables are taken out of it.
    const NULLS: u32 = 64;
    const AT_SYSINFO_EHDR: i32 = 33;
    let mut environment = code.create_label();
    let mut null = code.create_label();
    let mut auxiliary = code.create_label();
    code.set_label(&mut environment)?;
    code.mov(rax, qword_ptr(rsi))?;
    code.add(rsi, 8)?;
    code.test(rax, rax)?;
    code.jne(environment)?;
    code.mov(ecx, NULLS)?;
    code.set_label(&mut null)?;
    code.cmp(qword_ptr(rsi), 0)?;
    code.jne(auxiliary)?;
    code.add(rsi, 8)?;
    code.dec(ecx)?;
    code.jne(null)?;
    code.jmp(done)?;
    code.set_label(&mut auxiliary)?;
    code.mov(rax, qword_ptr(rsi))?; // a_type
    code.mov(rdi, qword_ptr(rsi + 8))?; // a_val
    code.add(rsi, 16)?;
    code.test(rax, rax)?; // AT_NULL
    code.je(done)?;
    code.cmp(rax, AT_SYSINFO_EHDR)?;
    code.jne(auxiliary)?;
    // A program that cut its environment short left pointers, from which on pairs may be read across each other: there
    // a type, which is no page's address, stands where the value is looked for.
    code.test(edi, PAGE_SIZE as i32 - 1)?;
    code.jne(auxiliary)?;
    code.test(rdi, rdi)?;
    code.je(done)
}

/// In: `rdi` the vDSO. Out: `r8` what its addresses are off by, `r9` its dynamic table.
fn read_program_headers(code: &mut CodeAssembler, done: CodeLabel) -> Result<(), IcedError> {
    const MAGIC: i32 = i32::from_le_bytes(*b"\x7fELF");
    let mut header = code.create_label();
    let mut is_dynamic = code.create_label();
    let mut next = code.create_label();
    let mut end = code.create_label();
    code.cmp(dword_ptr(rdi), MAGIC)?;
    code.jne(done)?;
    code.movzx(ecx, word_ptr(rdi + 56))?; // e_phnum
    code.mov(rsi, qword_ptr(rdi + 32))?; // e_phoff
    code.add(rsi, rdi)?;
    code.xor(r9d, r9d)?;
    code.xor(r10d, r10d)?; // whether a PT_LOAD was seen
    code.set_label(&mut header)?;
    code.test(ecx, ecx)?;
    code.je(end)?;
    code.mov(eax, dword_ptr(rsi))?; // p_type
    code.cmp(eax, 1)?; // PT_LOAD
    code.jne(is_dynamic)?;
    code.test(r10d, r10d)?;
    code.jne(next)?;
    code.mov(r8, rdi)?;
    code.add(r8, qword_ptr(rsi + 8))?; // p_offset
    code.sub(r8, qword_ptr(rsi + 16))?; // p_vaddr
    code.inc(r10d)?;
    code.jmp(next)?;
    code.set_label(&mut is_dynamic)?;
    code.cmp(eax, 2)?; // PT_DYNAMIC
    code.jne(next)?;
    code.mov(r9, rdi)?;
    code.add(r9, qword_ptr(rsi + 8))?; // p_offset
    code.set_label(&mut next)?;
    code.add(rsi, 56)?;
    code.dec(ecx)?;
    code.jmp(header)?;
    code.set_label(&mut end)?;
    code.test(r10d, r10d)?;
    code.je(done)?;
    code.test(r9, r9)?;
    code.je(done)
}

/// In: `r8` and `r9`. Out: `rbp` strings, `rbx` symbols, `r12` hash table, `r13` GNU hash table, `r14` versions of symbols,
/// `r15` definitions of versions; null for what is not there.
fn read_dynamic_table(code: &mut CodeAssembler, done: CodeLabel) -> Result<(), IcedError> {
    let mut entry = code.create_label();
    let mut end = code.create_label();
    for register in [ebp, ebx, r12d, r13d, r14d, r15d] {
        code.xor(register, register)?;
    }
    code.set_label(&mut entry)?;
    code.mov(rax, qword_ptr(r9))?; // d_tag
    code.mov(rcx, qword_ptr(r9 + 8))?; // d_val
    code.add(r9, 16)?;
    code.add(rcx, r8)?;
    code.test(rax, rax)?; // DT_NULL
    code.je(end)?;
    for (register, tag) in [
        (rbp, 5),           // DT_STRTAB
        (rbx, 6),           // DT_SYMTAB
        (r12, 4),           // DT_HASH
        (r13, 0x6fff_fef5), // DT_GNU_HASH
        (r14, 0x6fff_fff0), // DT_VERSYM
        (r15, 0x6fff_fffc), // DT_VERDEF
    ] {
        code.cmp(rax, tag)?;
        code.cmove(register, rcx)?;
    }
    code.jmp(entry)?;
    code.set_label(&mut end)?;
    code.test(rbp, rbp)?;
    code.je(done)?;
    code.test(rbx, rbx)?;
    code.je(done)
}

/// In: `r12`, `r13`. Out, at `counted`, which follows: `ecx` the number of symbols, as the hash table says, or behind the last chain of the other.
fn count_symbols(code: &mut CodeAssembler, counted: CodeLabel, done: CodeLabel) -> Result<(), IcedError> {
    let mut gnu = code.create_label();
    let mut bucket = code.create_label();
    let mut last_bucket = code.create_label();
    let mut chain = code.create_label();
    code.test(r12, r12)?;
    code.je(gnu)?;
    code.mov(ecx, dword_ptr(r12 + 4))?; // nchain
    code.jmp(counted)?;
    code.set_label(&mut gnu)?;
    code.test(r13, r13)?;
    code.je(done)?;
    code.mov(eax, dword_ptr(r13))?; // buckets
    code.mov(r10d, dword_ptr(r13 + 4))?; // first symbol that is hashed
    code.mov(ecx, dword_ptr(r13 + 8))?; // words of the Bloom filter
    code.lea(rsi, ptr(r13 + rcx * 8 + 16))?;
    code.lea(r11, ptr(rsi + rax * 4))?; // r11: chains
    code.xor(ecx, ecx)?;
    code.set_label(&mut bucket)?;
    code.test(eax, eax)?;
    code.je(last_bucket)?;
    code.mov(edx, dword_ptr(rsi))?;
    code.cmp(edx, ecx)?;
    code.cmova(ecx, edx)?; // the chain that begins last
    code.add(rsi, 4)?;
    code.dec(eax)?;
    code.jmp(bucket)?;
    code.set_label(&mut last_bucket)?;
    code.cmp(ecx, r10d)?;
    code.jb(done)?; // nothing is hashed
    code.mov(eax, ecx)?;
    code.sub(eax, r10d)?;
    code.set_label(&mut chain)?;
    code.mov(edx, dword_ptr(r11 + rax * 4))?;
    code.inc(eax)?;
    code.inc(ecx)?;
    code.test(dl, 1)?; // the chain ends
    code.je(chain)
}

fn at_address(at: Vaddr) -> MemoryOperand {
    MemoryOperand::with_base_displ(Register::RIP, at.0.cast_signed())
}

/// `lea at(%rip),%register`
fn address(register: Register, at: Vaddr) -> Result<Instruction, IcedError> {
    Instruction::with2(Code::Lea_r64_m, register, at_address(at))
}

/// `mov at(%rip),%register`
fn load(register: Register, at: Vaddr) -> Result<Instruction, IcedError> {
    Instruction::with2(Code::Mov_r64_rm64, register, at_address(at))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use iced_x86::{Decoder, DecoderOptions, Formatter as _, GasFormatter};

    use super::*;

    /// The code as assembly, without what is free.
    fn listing(page: &Page) -> String {
        let bytes = page.assembled().expect("all is near");
        let (mut formatter, mut text) = (GasFormatter::new(), String::new());
        for range in [0..NAMES, ENTRY_STRIDE * 2..Page::FREE] {
            let code = &bytes[range.start as usize..range.end as usize];
            for instruction in
                &mut Decoder::with_ip(64, code, page.vaddr.0 + range.start, DecoderOptions::NONE)
            {
                let mut assembly = String::new();
                formatter.format(&instruction, &mut assembly);
                if instruction.code() != Code::Int3 {
                    writeln!(text, "{:#x}: {assembly}", instruction.ip()).expect("a String takes text");
                }
            }
        }
        text
    }

    /// tests/snapshots.rs has the page of a program whose functions begin without `endbr64`.
    #[test]
    fn pages_of_all_kinds() {
        let page = Page {
            vaddr: Vaddr(0x3f_e000),
            pointers: Vaddr(0x3f_f000),
            start: Start::Program,
            next: Vaddr(0x40_0190),
            ibt: true,
        };
        let object = Page { start: Start::Object, ..page };
        insta::assert_snapshot!("program_with_endbr64", listing(&page));
        insta::assert_snapshot!("object_with_endbr64", listing(&object));
        insta::assert_snapshot!("object", listing(&Page { ibt: false, ..object }));
    }
}
