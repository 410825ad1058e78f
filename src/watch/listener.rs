//! A seccomp filter for the calling thread, and the descriptor that its questions come to. Unsafe code.
//!
//! **Contract.** The kernel reads a filter only while it is being installed, from a slice that lives that long. It
//! reads and writes the structs of the three requests only during the call; they are plain numbers, for which
//! all bytes are valid, zeroed before, and the one that is written has room behind it for fields that later
//! kernels may add. No memory is shared with the kernel or with the program that is watched.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use libc::{c_ulong, seccomp_notif, seccomp_notif_resp, sock_filter, sock_fprog};
use rustix::io::Errno;
use rustix::ioctl::{self, Opcode, Setter, Updater};
use rustix::process::Pid;

/// `SECCOMP_IOC_MAGIC`
const GROUP: u8 = b'!';
const RECEIVE: Opcode = ioctl::opcode::read_write::<seccomp_notif>(GROUP, 0);
const ANSWER: Opcode = ioctl::opcode::read_write::<seccomp_notif_resp>(GROUP, 1);
const IS_VALID: Opcode = ioctl::opcode::write::<u64>(GROUP, 2);

/// Where the filter's questions come to.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// A thread that made a system call which the filter asks about, and waits.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    id: u64,
    /// The thread, by the number that it has for this process.
    pub thread: Pid,
    /// Where it is.
    pub instruction_pointer: u64,
}

/// A question with room for what later kernels may add to it.
#[repr(C)]
struct Received {
    question: seccomp_notif,
    room: [u64; 64],
}

/// Installs `filter` on the calling thread, and on what it will start. Nobody is asked.
///
/// # Errors
/// Those of `seccomp(2)`.
pub fn install(filter: &[sock_filter]) -> io::Result<()> {
    seccomp(filter, 0).map(drop)
}

fn seccomp(filter: &[sock_filter], flags: c_ulong) -> io::Result<RawFd> {
    rustix::thread::set_no_new_privs(true)?;
    let len = u16::try_from(filter.len()).map_err(io::Error::other)?;
    let program = sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the module's contract; `program` and `filter` live during the call, and are only read.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::from_ref(&program))
    };
    match RawFd::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Listener {
    /// Installs `filter` on the calling thread, and on what it will start.
    ///
    /// # Errors
    /// Those of `seccomp(2)`: `EBUSY` where somebody listens already, `EINVAL` before Linux 5.0.
    pub fn install(filter: &[sock_filter]) -> io::Result<Self> {
        let descriptor = seccomp(filter, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
        // SAFETY: the kernel has just made it, for the caller to own.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// The next question; nothing where the one that was announced is gone: its thread was killed, say.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn receive(&self) -> io::Result<Option<Question>> {
        // SAFETY: all of it is numbers, for which zero is a value.
        let mut received: Received = unsafe { std::mem::zeroed() };
        // SAFETY: the module's contract; the kernel writes a `seccomp_notif`.
        let result = unsafe { ioctl::ioctl(&self.0, Updater::<RECEIVE, _>::new(&mut received)) };
        match result {
            Err(Errno::INTR | Errno::NOENT) => return Ok(None),
            result => result?,
        }
        let seccomp_notif { id, pid, data, .. } = received.question;
        let thread = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let thread = thread.ok_or_else(|| io::Error::other("a thread of another PID namespace asks"))?;
        Ok(Some(Question { id, thread, instruction_pointer: data.instruction_pointer }))
    }

    /// Whether the thread still waits, so that what was read of it was of it.
    #[must_use]
    pub fn is_waiting(&self, question: &Question) -> bool {
        // SAFETY: the module's contract; the kernel reads one number.
        unsafe { ioctl::ioctl(&self.0, Setter::<IS_VALID, u64>::new(question.id)) }.is_ok()
    }

    /// Lets the call pass. It is no error where nobody waits any more.
    ///
    /// # Errors
    /// Those of the kernel: `EINVAL` before Linux 5.5.
    pub fn let_pass(&self, question: &Question) -> io::Result<()> {
        let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        let mut answer = seccomp_notif_resp { id: question.id, val: 0, error: 0, flags };
        // SAFETY: the module's contract; the kernel reads a `seccomp_notif_resp`.
        match unsafe { ioctl::ioctl(&self.0, Updater::<ANSWER, _>::new(&mut answer)) } {
            Err(Errno::NOENT) => Ok(()),
            result => Ok(result?),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
