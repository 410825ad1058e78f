//! Memory that is a file: only what is looked at is read, nothing is copied, and what was searched leaves again; and what it
//! takes to go over memory as fast as it comes. Unsafe code.
//!
//! **Contract.** A large file is mapped privately and read-only, while a look takes. Another process can write to it
//! meanwhile, or make it shorter; no type here depends on what the bytes are (they are `u8`), nothing is written from
//! them, and whoever writes a file reads it again into memory of its own and compares checksums. Where the file was
//! made shorter under the map, the kernel sends SIGBUS: the handler puts zeros in the place of what is gone, and the
//! look fails with `Unsafe`, as with any file that changed while it was read. A SIGBUS of another origin goes to the
//! handler that was there before.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64 as arch;
use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use libc::{c_void, siginfo_t};
use memmap2::Mmap;

/// Bytes after which those that were gone over need not stay in memory.
pub(crate) const STRETCH: usize = 8 << 20;

/// Files that may be mapped at the same time; more are read.
const MAPS: usize = 64;

/// Addresses of a map, for the handler.
#[derive(Debug)]
struct Range {
    /// 0 where the slot is free, 1 where it is just taken.
    start: AtomicUsize,
    end: AtomicUsize,
    /// Zeros were put in the place of something.
    is_cut: AtomicBool,
}

static RANGES: [Range; MAPS] = [const {
    Range { start: AtomicUsize::new(0), end: AtomicUsize::new(0), is_cut: AtomicBool::new(false) }
}; MAPS];

/// What SIGBUS did before; nothing where the handler could not be installed.
static BEFORE: OnceLock<Option<libc::sigaction>> = OnceLock::new();

/// A file in memory, which the handler knows of.
#[derive(Debug)]
pub(crate) struct Map {
    // Unmapped after the range was given free: nobody reads it then.
    range: &'static Range,
    map: Mmap,
}

impl Map {
    /// Maps `file`; nothing where it cannot be watched.
    ///
    /// # Errors
    /// Those of `mmap`.
    pub(crate) fn of(file: &File) -> io::Result<Option<Self>> {
        if BEFORE.get_or_init(install).is_none() {
            return Ok(None);
        }
        let take =
            |range: &&Range| range.start.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok();
        let Some(range) = RANGES.iter().find(take) else { return Ok(None) };
        // SAFETY: the module's contract.
        let map = match unsafe { Mmap::map(file) } {
            Ok(map) => map,
            Err(error) => {
                range.start.store(0, Ordering::Release);
                return Err(error);
            }
        };
        // Where the page cache holds the file in huge pages, what is looked at need not bring all of one with it (newer kernels
        // map the small pages of one all at once, all the same). One that knows no huge pages knows no such advice.
        let _ = map.advise(memmap2::Advice::NoHugePage);
        range.is_cut.store(false, Ordering::Relaxed);
        range.end.store(map.as_ptr().addr() + map.len(), Ordering::Release);
        range.start.store(map.as_ptr().addr(), Ordering::Release);
        Ok(Some(Self { range, map }))
    }

    /// The bytes of the file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Whether the file was made shorter, so that some of the bytes are zeros that it never had.
    pub(crate) fn is_cut(&self) -> bool {
        self.range.is_cut.load(Ordering::Relaxed)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        self.range.start.store(0, Ordering::Release);
    }
}

fn install() -> Option<libc::sigaction> {
    // SAFETY: zeros are a valid `sigaction`, and both pointers are to live ones. The handler calls nothing that is
    // not safe in a signal handler: atomics, mmap and sigaction.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut before: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = put_zeros;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        (libc::sigaction(libc::SIGBUS, &raw const action, &raw mut before) == 0).then_some(before)
    }
}

/// Puts zeros in the place of the rest of the map that a read in it failed in.
extern "C" fn put_zeros(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel gives a valid `siginfo_t`. What is mapped anew belongs to a live map, which is read-only
    // memory of this module; it is unmapped as a whole.
    unsafe {
        let at = (*info).si_addr().addr();
        let is_hit = |range: &&Range| {
            let start = range.start.load(Ordering::Acquire);
            start > 1 && (start..range.end.load(Ordering::Relaxed)).contains(&at)
        };
        if let Some(range) = RANGES.iter().find(is_hit) {
            let page = at & !(rustix::param::page_size() - 1);
            let len = range.end.load(Ordering::Relaxed) - page;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            let put = libc::mmap(page as *mut c_void, len, libc::PROT_READ, flags, -1, 0);
            if put != libc::MAP_FAILED {
                range.is_cut.store(true, Ordering::Relaxed);
                return;
            }
        }
        // The read is done again, and fails again: whoever was responsible before gets that.
        if let Some(Some(before)) = BEFORE.get() {
            libc::sigaction(signal, before, std::ptr::null_mut());
        } else {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

/// Bytes side by side, as many as a register holds; what is done to one is done to all. Written out, since compilers make
/// vector code of loops only where they build for speed, and what is handed out is built to be small.
pub(crate) trait Lanes: Copy {
    /// How many.
    const COUNT: usize;
    /// `byte` in all.
    fn all(byte: u8) -> Self;
    /// The first ones of `bytes`, which are as many or more.
    fn of(bytes: &[u8]) -> Self;
    fn and(self, other: Self) -> Self;
    fn or(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    /// The sum, modulo 256.
    fn plus(self, other: Self) -> Self;
    /// The lesser one.
    fn min(self, other: Self) -> Self;
    fn any_is_zero(self) -> bool;
}

impl Lanes for u8 {
    const COUNT: usize = 1;
    #[inline(always)]
    fn all(byte: u8) -> Self {
        byte
    }
    #[inline(always)]
    fn of(bytes: &[u8]) -> Self {
        bytes[0]
    }
    #[inline(always)]
    fn and(self, other: Self) -> Self {
        self & other
    }
    #[inline(always)]
    fn or(self, other: Self) -> Self {
        self | other
    }
    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        self ^ other
    }
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self.wrapping_add(other)
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Ord::min(self, other)
    }
    #[inline(always)]
    fn any_is_zero(self) -> bool {
        self == 0
    }
}

/// [`Lanes`] in a register of the processor.
#[cfg(target_arch = "x86_64")]
macro_rules! lanes {
    ($register:ident, $all:ident, $load:ident, $and:ident, $or:ident, $xor:ident, $plus:ident, $min:ident, $equal:ident, $mask:ident) => {
        // SAFETY: every x86-64 processor has SSE2, and those of AVX2 are made in `with_widest` only, which asks for it. What is
        // loaded is a slice of as many bytes.
        impl Lanes for arch::$register {
            const COUNT: usize = size_of::<Self>();
            #[inline(always)]
            fn all(byte: u8) -> Self {
                unsafe { arch::$all(byte.cast_signed()) }
            }
            #[inline(always)]
            fn of(bytes: &[u8]) -> Self {
                unsafe { arch::$load(bytes[..Self::COUNT].as_ptr().cast()) }
            }
            #[inline(always)]
            fn and(self, other: Self) -> Self {
                unsafe { arch::$and(self, other) }
            }
            #[inline(always)]
            fn or(self, other: Self) -> Self {
                unsafe { arch::$or(self, other) }
            }
            #[inline(always)]
            fn xor(self, other: Self) -> Self {
                unsafe { arch::$xor(self, other) }
            }
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                unsafe { arch::$plus(self, other) }
            }
            #[inline(always)]
            fn min(self, other: Self) -> Self {
                unsafe { arch::$min(self, other) }
            }
            #[inline(always)]
            fn any_is_zero(self) -> bool {
                unsafe { arch::$mask(arch::$equal(self, Self::all(0))) != 0 }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe)]
mod registers {
    use super::{Lanes, arch};

    lanes!(
        __m128i,
        _mm_set1_epi8,
        _mm_loadu_si128,
        _mm_and_si128,
        _mm_or_si128,
        _mm_xor_si128,
        _mm_add_epi8,
        _mm_min_epu8,
        _mm_cmpeq_epi8,
        _mm_movemask_epi8
    );
    lanes!(
        __m256i,
        _mm256_set1_epi8,
        _mm256_loadu_si256,
        _mm256_and_si256,
        _mm256_or_si256,
        _mm256_xor_si256,
        _mm256_add_epi8,
        _mm256_min_epu8,
        _mm256_cmpeq_epi8,
        _mm256_movemask_epi8
    );
}

/// What is done with [`Lanes`]; all of it is to be inlined.
pub(crate) trait Work {
    fn with<L: Lanes>(self);
}

/// Does `work` with the widest registers that the processor has.
pub(crate) fn with_widest(work: impl Work) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn wide(work: impl Work) {
            work.with::<arch::__m256i>();
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has them.
            unsafe { wide(work) };
        } else {
            work.with::<arch::__m128i>();
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    work.with::<u8>();
}

/// Tells that `bytes` were searched, and that hardly any of them will be read again: where they are of a file in memory,
/// they leave it, but for a last page that is not searched to its end. Who reads them again all the same finds them again.
///
/// Every processor is interrupted for that: a few bytes, and a file that is no larger than a stretch, stay until the file
/// leaves as a whole.
pub(crate) fn searched(bytes: &[u8]) {
    const LEAST: usize = 1 << 20;
    if bytes.len() < LEAST {
        return;
    }
    let page = rustix::param::page_size();
    let (start, end) = (bytes.as_ptr().addr(), bytes.as_ptr().addr() + bytes.len());
    let (first, behind) = (start & !(page - 1), end & !(page - 1));
    if first < behind && file_of(start, end).is_some_and(|size| size > STRETCH) {
        // SAFETY: whole pages of a live map of a file, which begins with a page and which nobody writes to: they are
        // read from the file again.
        // It stays mapped, since whoever holds `bytes` holds the map.
        unsafe { libc::madvise(first as *mut c_void, behind - first, libc::MADV_DONTNEED) };
    }
}

/// The size of the file in memory that the addresses from `start` to `end` are of, if it was not made shorter.
fn file_of(start: usize, end: usize) -> Option<usize> {
    RANGES.iter().find_map(|range| {
        let first = range.start.load(Ordering::Acquire);
        let behind = range.end.load(Ordering::Acquire);
        // Both are of one map: meanwhile the slot may have been given to another.
        let are_of_one = range.start.load(Ordering::Relaxed) == first;
        let holds = are_of_one && first > 1 && first <= start && end <= behind;
        (holds && !range.is_cut.load(Ordering::Relaxed)).then(|| behind - first)
    })
}

/// Large blocks of memory go back to the system as soon as they are free. For commands, not for libraries: the
/// allocator is everybody's.
///
/// # Errors
/// `Unsupported` where the allocator knows no such thing.
pub fn give_back_large_blocks() -> io::Result<()> {
    #[cfg(target_env = "gnu")]
    {
        const LARGE: c_int = 128 << 10;
        // SAFETY: it takes numbers, and locks the allocator itself.
        if unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) } == 1 {
            return Ok(());
        }
    }
    Err(io::ErrorKind::Unsupported.into())
}
